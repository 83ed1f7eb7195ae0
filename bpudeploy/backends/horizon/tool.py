"""Find a vendor tool: in bpudeploy's toolchain, on PATH, or in a container. No command line goes through a shell."""

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

_QUERY_S = 60.0
"""Time limit for a version or a digest: the tools import their whole compiler first."""
INSIDE = "/work"
_DISTRIBUTIONS = (
    *("rdkx5-yolo-mapper", "dgdk", "dg-nn-toolkit"),
    *("horizon-tc-ui", "hbdk", "horizon-nn", "hbdk4-compiler", "hmct"),
)
"""The vendor's packages, as its wheels for X3, X5 and Ultra and its OpenExplorer packages name them."""
_LIST_VERSIONS = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
_GET = {
    "hb_mapper": "run `bpudeploy toolchain install` (x86-64 Linux), or set the vendor's OpenExplorer container: "
    "`compile: {hb_mapper: {image: ...}}`; docs/how-to/vendor-tools.md lists it for each board",
    "hb_compile": "install the vendor's OpenExplorer package on this machine (x86-64 Linux), or set its container: "
    "`compile: {hb_compile: {image: ...}}`; docs/how-to/vendor-tools.md lists it",
}


@dataclass(frozen=True)
class Command:
    """A command line, and those that end its container, which killing its processes does not."""

    argv: tuple[str, ...]
    kill: tuple[tuple[str, ...], ...] = ()
    environment: Mapping[str, str] | None = None
    """This process's own by default."""


class Tool(Protocol):
    """An available vendor tool."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Its name, and its version or its container's digest."""
        ...

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        ...

    def command(self, arguments: tuple[str, ...], folder: Path) -> Command:
        """Return the command line to run it in ``folder``."""
        ...


@dataclass(frozen=True)
class LocalTool:
    """A program on this machine. The memory limit applies to containers only."""

    program: str
    fingerprint: Fingerprint
    location: str
    environment: Mapping[str, str] | None = None

    def command(self, arguments: tuple[str, ...], folder: Path) -> Command:
        return Command((self.program, *arguments), environment=self.environment)


@dataclass(frozen=True)
class ContainerTool:
    """A program in a container: no network, this user, one folder, a memory limit, removed when it ends."""

    docker: str
    name: str
    image: str
    digest: str
    memory_gib: int

    @property
    def fingerprint(self) -> Fingerprint:
        return {self.name: self.digest}

    @property
    def location(self) -> str:
        return f"in {self.image}"

    def command(self, arguments: tuple[str, ...], folder: Path) -> Command:
        if ":" in str(folder):
            raise StageError(f"docker cannot mount {folder}: it has a colon", hint="use another --store")
        called = f"bpudeploy-{self.name.replace('_', '-')}-{uuid.uuid4().hex[:12]}"
        run = (
            *(self.docker, "run", "--rm", "--name", called, "--network", "none"),
            *("--user", f"{os.getuid()}:{os.getgid()}", "-e", "HOME=/tmp"),
            *("-v", f"{folder}:{INSIDE}", "-w", INSIDE),
            *("--memory", f"{self.memory_gib}g", "--shm-size", f"{self.memory_gib}g"),
            *(self.digest, self.name, *arguments),  # not by tag, which may have moved since the key was computed
        )
        return Command(run, ((self.docker, "kill", called), (self.docker, "rm", "--force", called)))


def find_tool(name: str, options: VendorOptions) -> Tool:
    """Return the tool: in a container if ``options`` has an image, else from the toolchain, else from PATH.

    Raises:
        ToolMissing: it is not available; nothing is downloaded.
    """
    if options.image is None:
        return _on_this_machine(name)
    docker = shutil.which("docker")
    if docker is None:
        raise ToolMissing(
            f"compile.{name}.image needs docker, which is not on PATH",
            hint=f"install docker, or remove image: {_GET[name]}",
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
    """Return the versions of a program's vendor packages, or else the output of --version.

    Packages first: for --version the tool imports its whole compiler, which takes 4 s.
    """
    if packages := _packages(Path(program)):
        return packages
    status, output = _query(program, "--version")
    words = output.split()
    if status == 0 and words:
        return words[-1]
    raise ToolMissing(
        f"{program} does not report its version ({output.strip()[-200:] or 'no output'})",
        hint=f"check that `{name} --version` or `{name} --help` runs",
    )


def _packages(program: Path) -> str:
    """Return the vendor packages in the Python of a console script, with their versions."""
    with program.open("rb") as stream:
        first = stream.readline(4096)
    python = first[2:].strip().decode("utf-8", "replace") if first.startswith(b"#!") else ""
    if "python" not in Path(python).name:
        return ""
    status, output = _query(python, "-c", _LIST_VERSIONS, *_DISTRIBUTIONS)
    return ", ".join(output.splitlines()) if status == 0 else ""


@cache
def _digest(docker: str, name: str, image: str) -> str:
    status, output = _query(docker, "image", "inspect", "--format", "{{.Id}}", image)
    if status == 0 and output.strip():
        return output.strip()
    raise ToolMissing(
        f"compile.{name}.image: docker has no {image} ({output.strip()[-300:]})",
        hint=f"`docker pull {image}` (or `docker load` the vendor's file) first: a run downloads no images",
    )


def _query(*argv: str) -> tuple[int, str]:
    """Return the exit status and output of a short command; 127 if it cannot be started, 124 if it takes too long."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUERY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {_QUERY_S:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout
