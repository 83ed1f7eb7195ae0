"""Where a vendor tool is: in bpudeploy's toolchain, on PATH, or in a container. Command lines are never a shell's."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from bpudeploy.backends.base import ToolMissing
from bpudeploy.backends.horizon.toolchain.installed import installed
from bpudeploy.errors import StageError
from bpudeploy.spec.compile_options import VendorOptions
from bpudeploy.stage import Fingerprint

_ASK_S = 60.0
"""How long a version or a digest may take: the tools import their whole compiler first."""
INSIDE = "/work"
_DISTRIBUTIONS = (
    *("rdkx5-yolo-mapper", "dgdk", "dg-nn-toolkit"),
    *("horizon-tc-ui", "hbdk", "horizon-nn", "hbdk4-compiler", "hmct"),
)
"""The vendor's packages, as its wheels for X3, X5 and Ultra and its OpenExplorer packages name them."""
_ASK_PYTHON = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
_GET = {
    "hb_mapper": "`bpudeploy toolchain install` gets it (x86-64 Linux), or name the vendor's OpenExplorer container: "
    "`compile: {hb_mapper: {image: ...}}`; docs/vendor-tools.md names it for each board",
    "hb_compile": "install the vendor's OpenExplorer package on this machine (x86-64 Linux), or name its container: "
    "`compile: {hb_compile: {image: ...}}`; docs/vendor-tools.md names it",
}


@dataclass(frozen=True)
class Command:
    """What is started, and what ends it where killing its processes does not: the container's."""

    argv: tuple[str, ...]
    kill: tuple[tuple[str, ...], ...] = ()
    environment: Mapping[str, str] | None = None
    """Instead of this process's own."""


class Tool(Protocol):
    """A vendor tool that is there."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Its name, and its version or its container's digest."""
        ...

    @property
    def where(self) -> str:
        """Where it is, in words."""
        ...

    def command(self, arguments: tuple[str, ...], folder: Path) -> Command:
        """Return how it is started with ``folder`` as its working directory."""
        ...


@dataclass(frozen=True)
class LocalTool:
    """A program of this machine. The memory limit is not kept: a container has one."""

    program: str
    fingerprint: Fingerprint
    where: str
    environment: Mapping[str, str] | None = None

    def command(self, arguments: tuple[str, ...], folder: Path) -> Command:
        return Command((self.program, *arguments), environment=self.environment)


@dataclass(frozen=True)
class ContainerTool:
    """A program in a container: no network, this user, one folder, a memory limit, and gone when it ends."""

    docker: str
    name: str
    image: str
    digest: str
    memory_gib: int

    @property
    def fingerprint(self) -> Fingerprint:
        return {self.name: self.digest}

    @property
    def where(self) -> str:
        return f"in {self.image}"

    def command(self, arguments: tuple[str, ...], folder: Path) -> Command:
        if ":" in str(folder):
            raise StageError(f"docker cannot mount {folder}: it has a colon", hint="name another --store")
        called = f"bpudeploy-{self.name.replace('_', '-')}-{uuid.uuid4().hex[:12]}"
        run = (
            *(self.docker, "run", "--rm", "--name", called, "--network", "none"),
            *("--user", f"{os.getuid()}:{os.getgid()}", "-e", "HOME=/tmp"),
            *("-v", f"{folder}:{INSIDE}", "-w", INSIDE),
            *("--memory", f"{self.memory_gib}g", "--shm-size", f"{self.memory_gib}g"),
            *(self.digest, self.name, *arguments),  # by its content: a tag may have moved since the key was made
        )
        return Command(run, ((self.docker, "kill", called), (self.docker, "rm", "--force", called)))


def find_tool(name: str, options: VendorOptions) -> Tool:
    """Return the tool: the container's when ``options`` name an image, else the toolchain's, else that on PATH.

    Raises:
        ToolMissing: it is not there; nothing is fetched.
    """
    if options.image is None:
        return _on_this_machine(name)
    docker = shutil.which("docker")
    if docker is None:
        raise ToolMissing(
            f"compile.{name}.image names a container, and docker is not on PATH",
            hint=f"install docker, or leave image out: {_GET[name]}",
        )
    return ContainerTool(docker, name, options.image, _digest(docker, name, options.image), options.memory_gib)


def _on_this_machine(name: str) -> LocalTool:
    toolchain = installed()
    if toolchain is not None and (toolchain.bin / name).is_file():
        program = str(toolchain.bin / name)
        return LocalTool(program, toolchain.fingerprint, "of `bpudeploy toolchain`", toolchain.environment())
    found = shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is neither installed by bpudeploy nor on PATH", hint=_GET[name])
    return LocalTool(found, {name: _version(name, found, Path(found).stat().st_mtime_ns)}, "on PATH")


@cache
def _version(name: str, program: str, changed_ns: int) -> str:
    """Return the versions of the vendor's packages that a program is made of, or else what it calls its version.

    The packages come first: to say its version the tool imports its whole compiler, 4 s.
    """
    if packages := _packages(Path(program)):
        return packages
    status, said = _ask(program, "--version")
    words = said.split()
    if status == 0 and words:
        return words[-1]
    raise ToolMissing(
        f"{program} does not say its version ({said.strip()[-200:] or 'no output'})",
        hint=f"check that `{name} --version` or `{name} --help` runs",
    )


def _packages(program: Path) -> str:
    """Return the vendor's packages that the Python of a console script has, with their versions."""
    with program.open("rb") as stream:
        first = stream.readline(4096)
    python = first[2:].strip().decode("utf-8", "replace") if first.startswith(b"#!") else ""
    if "python" not in Path(python).name:
        return ""
    status, said = _ask(python, "-c", _ASK_PYTHON, *_DISTRIBUTIONS)
    return ", ".join(said.splitlines()) if status == 0 else ""


@cache
def _digest(docker: str, name: str, image: str) -> str:
    status, said = _ask(docker, "image", "inspect", "--format", "{{.Id}}", image)
    if status == 0 and said.strip():
        return said.strip()
    raise ToolMissing(
        f"compile.{name}.image: docker has no {image} ({said.strip()[-300:]})",
        hint=f"`docker pull {image}` (or `docker load` the vendor's file) first: a run fetches nothing",
    )


def _ask(*argv: str) -> tuple[int, str]:
    """Return a short question's exit status and answer; what cannot be started has status 127."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {_ASK_S:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout
