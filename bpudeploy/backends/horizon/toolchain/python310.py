"""Find the CPython 3.10 that the vendor's packages require."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from bpudeploy.backends.horizon.tool import query
from bpudeploy.errors import UsageError

_PROBE = "import platform, sys; print(sys.implementation.name, *sys.version_info[:3], platform.machine(), sep=' ')"
CONTAINER = "compile.hb_mapper.image: openexplorer/ai_toolchain_ubuntu_20_x5_cpu:v1.2.8"
_GET = (
    "install one with `uv python install 3.10`, `pyenv install 3.10` or `apt install python3.10-venv`, or set --python"
)


def check_machine() -> None:
    """Check that the vendor's packages support this machine.

    Raises:
        UsageError: it is not x86-64 Linux with glibc.
    """
    machine, libc = platform.machine(), platform.libc_ver()[0]
    if sys.platform != "linux" or machine not in ("x86_64", "AMD64") or libc != "glibc":
        other_libc = f", {libc}" if sys.platform == "linux" and libc not in ("glibc", "") else ""
        kind = f"{machine} {platform.system()}{other_libc}"
        raise UsageError(
            f"D-Robotics' toolchain runs on x86-64 Linux with glibc only, and this is {kind}",
            hint=f"use an x86-64 Linux machine, or the vendor's container on one: {CONTAINER}",
        )


def find_python(chosen: Path | None) -> tuple[Path, str]:
    """Return a CPython 3.10 and its version: ``chosen``, or one from PATH, pyenv or uv.

    Raises:
        UsageError: there is none, or ``chosen`` is another program.
    """
    if chosen is not None:
        version = _version(chosen)
        if version is not None and version.startswith("3.10."):
            return chosen.absolute(), version
        what = f"is Python {version}" if version is not None else "does not start as a CPython for x86-64"
        raise UsageError(f"--python {chosen} {what}, and the toolchain needs CPython 3.10", hint=_GET)
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and version.startswith("3.10."):
            return candidate, version
    raise UsageError(
        "no CPython 3.10 was found on PATH, in pyenv or in uv, and the vendor's packages need it",
        hint=f"{_GET}; or use the vendor's container, {CONTAINER}",
    )


def _candidates() -> Iterator[Path]:
    """Yield possible CPythons 3.10, the likeliest first; a pyenv shim on PATH may not start."""
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        if entry and (Path(entry) / "python3.10").is_file():
            yield Path(entry) / "python3.10"
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local" / "share" / "uv" / "python")
    yield from sorted(pyenv.glob("3.10*/bin/python3.10"), reverse=True)
    yield from sorted(uv.glob("cpython-3.10*/bin/python3.10"), reverse=True)


def _version(python: Path) -> str | None:
    """Return the version of a CPython for x86-64; None for any other program."""
    status, output = query(str(python), "-I", "-c", _PROBE, limit_s=20.0)
    words = output.split()
    if status != 0 or len(words) != 5 or words[0] != "cpython" or words[4] not in ("x86_64", "AMD64"):
        return None
    return ".".join(words[1:4])
