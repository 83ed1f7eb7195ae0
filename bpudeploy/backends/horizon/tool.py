"""Find a vendor tool: in bpudeploy's toolchain, on PATH, or in a container. No command line goes through a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bpudeploy.backends.base import ToolMissing
from bpudeploy.backends.horizon.toolchain.installed import Toolchain, installed
from bpudeploy.errors import StageError
from bpudeploy.spec.compile_options import VendorOptions
from bpudeploy.stage import Fingerprint

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


@dataclass(frozen=True)
class Tool:
    """An available vendor tool."""

    fingerprint: Fingerprint
    """Its name, and its version or its container's digest."""
    location: str
    """Where it is, for messages."""
    command: Callable[[str, tuple[str, ...], Path], Command]
    """Returns the command line to run one of its programs with these arguments in this folder."""
    pinned: bool = False
    """It is the version that ``inside`` is tested with."""


def local_tool(toolchain: Toolchain, fingerprint: Fingerprint, location: str) -> Tool:
    """Return the toolchain that bpudeploy installed. The memory limit applies to containers only."""

    def command(program: str, arguments: tuple[str, ...], folder: Path) -> Command:
        return Command((str(toolchain.bin / program), *arguments), (), toolchain.environment())

    return Tool(fingerprint, location, command, pinned=True)


def _container_tool(docker: str, name: str, image: str, memory_gib: int) -> Tool:
    """Return a program in a container: no network, this user, one folder, a memory limit, removed when it ends."""
    digest = _digest(docker, name, image)

    def command(program: str, arguments: tuple[str, ...], folder: Path) -> Command:
        if ":" in str(folder):
            raise StageError(f"docker cannot mount {folder}: it has a colon", hint="use another --store")
        called = f"bpudeploy-{name.replace('_', '-')}-{uuid.uuid4().hex[:12]}"
        run = (
            *(docker, "run", "--rm", "--name", called, "--network", "none"),
            *("--user", f"{os.getuid()}:{os.getgid()}", "-e", "HOME=/tmp"),
            *("-v", f"{folder}:{INSIDE}", "-w", INSIDE),
            *("--memory", f"{memory_gib}g", "--shm-size", f"{memory_gib}g"),
            *(digest, program, *arguments),  # not by tag, which may have moved since the key was computed
        )
        return Command(run, ((docker, "kill", called), (docker, "rm", "--force", called)))

    return Tool({name: digest}, f"in {image}", command)


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
    return _container_tool(docker, name, options.image, options.memory_gib)


def _on_this_machine(name: str) -> Tool:
    toolchain = installed()
    if toolchain is not None and (toolchain.bin / name).is_file():
        return local_tool(toolchain, toolchain.fingerprint, "of `bpudeploy toolchain`")
    found = shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is neither installed by bpudeploy nor on PATH", hint=_GET[name])
    version = _version(name, found, Path(found).stat().st_mtime_ns)

    def command(program: str, arguments: tuple[str, ...], folder: Path) -> Command:
        return Command((str(Path(found).with_name(program)), *arguments))  # of the same environment

    return Tool({name: version}, "on PATH", command)


@cache
def _version(name: str, program: str, changed_ns: int) -> str:
    """Return the versions of a program's vendor packages, or else the output of --version.

    Packages first: for --version the tool imports its whole compiler, which takes 4 s.
    """
    if packages := _packages(Path(program)):
        return packages
    status, output = query(program, "--version")
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
    status, output = query(python, "-c", _LIST_VERSIONS, *_DISTRIBUTIONS)
    return ", ".join(output.splitlines()) if status == 0 else ""


@cache
def _digest(docker: str, name: str, image: str) -> str:
    status, output = query(docker, "image", "inspect", "--format", "{{.Id}}", image)
    if status == 0 and output.strip():
        return output.strip()
    raise ToolMissing(
        f"compile.{name}.image: docker has no {image} ({output.strip()[-300:]})",
        hint=f"`docker pull {image}` (or `docker load` the vendor's file) first: a run downloads no images",
    )


def query(*argv: str, limit_s: float = 60.0) -> tuple[int, str]:
    """Return the exit status and output of a short command; 127 if it cannot be started, 124 if it takes too long.

    The default limit is for tools that import their whole compiler first.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {limit_s:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout
