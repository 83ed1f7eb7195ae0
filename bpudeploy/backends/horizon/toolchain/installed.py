"""The installed toolchain, read from its record without running any of it."""

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
    """The record of an installation, which is written last."""

    lock: str
    """The first 12 digits of the sha256 of its lock file."""
    python: str
    """The version of its CPython 3.10."""
    versions: dict[str, str]
    """Versions as reported by hb_mapper, hbdk and horizon_nn."""
    size: int
    """Bytes on the disk."""
    folder: str

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return Path(self.folder) / "env" / "bin"

    @property
    def fingerprint(self) -> Fingerprint:
        """What its output depends on: the vendor's versions, and the lock file."""
        return {**self.versions, "toolchain": self.lock}

    def environment(self) -> dict[str, str]:
        """Return the environment variables for its programs, which start each other by PATH."""
        ours = clean_environment()
        return {**ours, "PATH": f"{self.bin}{os.pathsep}{ours.get('PATH', os.defpath)}", "PYTHONNOUSERSITE": "1"}


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the variables that select another Python's packages."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def folder() -> Path:
    """Return $BPUDEPLOY_TOOLCHAIN, else bpudeploy-toolchain in the user's cache directory."""
    if chosen := os.environ.get("BPUDEPLOY_TOOLCHAIN"):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "bpudeploy-toolchain"


@cache
def lock_text() -> str:
    """Return the lock file: pinned packages in pip's format."""
    return resources.files("bpudeploy.backends.horizon.toolchain").joinpath("lock.txt").read_text(encoding="utf-8")


@cache
def lock_digest() -> str:
    """Return the first 12 digits of the sha256 of the lock file."""
    return hashlib.sha256(lock_text().encode()).hexdigest()[:12]


def installed() -> Toolchain | None:
    """Return the installed toolchain; None if there is none or its installation is incomplete."""
    try:
        found = Toolchain.model_validate_json((folder() / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return found if Path(found.folder) == folder() and (found.bin / "hb_mapper").is_file() else None
