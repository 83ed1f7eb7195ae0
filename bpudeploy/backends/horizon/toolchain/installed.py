"""Where the toolchain is installed, and what is there: read without starting any of it."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from bpudeploy.spec.frozen import Frozen
from bpudeploy.stage import Fingerprint

RECORD = "installed.json"


class Toolchain(Frozen):
    """One installation, as its record describes it; the record is written when everything else is there."""

    lock: str
    """The first 12 digits of the sha256 of the list of packages that it was installed from."""
    python: str
    """The CPython 3.10 that it was made with."""
    versions: dict[str, str]
    """Its programs and libraries as they report themselves: hb_mapper, hbdk, horizon_nn."""
    size: int
    """Bytes on the disk."""
    folder: str

    @property
    def bin(self) -> Path:
        """Its programs."""
        return Path(self.folder) / "env" / "bin"

    @property
    def fingerprint(self) -> Fingerprint:
        """What decides what it compiles: the vendor's versions, and the list of packages around them."""
        return {**self.versions, "toolchain": self.lock}

    def environment(self) -> dict[str, str]:
        """Return the environment variables for its programs: they start each other by PATH."""
        ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        return {**ours, "PATH": f"{self.bin}{os.pathsep}{ours.get('PATH', os.defpath)}", "PYTHONNOUSERSITE": "1"}


def folder() -> Path:
    """Return $BPUDEPLOY_TOOLCHAIN, else bpudeploy-toolchain in the user's cache directory."""
    if chosen := os.environ.get("BPUDEPLOY_TOOLCHAIN"):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "bpudeploy-toolchain"


@cache
def lock_text() -> str:
    """Return the list of pinned packages, in pip's format."""
    return resources.files("bpudeploy.backends.horizon.toolchain").joinpath("lock.txt").read_text(encoding="utf-8")


@cache
def lock_digest() -> str:
    """Return the first 12 digits of the sha256 of the list of packages."""
    return hashlib.sha256(lock_text().encode()).hexdigest()[:12]


def installed() -> Toolchain | None:
    """Return the toolchain that is installed, or None: there is none, or its installation was not finished."""
    try:
        found = Toolchain.model_validate_json((folder() / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return found if Path(found.folder) == folder() and (found.bin / "hb_mapper").is_file() else None
