"""The board's files: in tests a folder stands before their paths, so that a fake board has its own /sys and /proc."""

from __future__ import annotations

import glob
import os
import re
from typing import List, Optional

_MOST = 1 << 20


def read(path: str) -> Optional[str]:
    """Return what a file says, or None: a sensor that is switched off, or not there at all, says nothing."""
    try:
        with open(path, errors="replace") as stream:
            return stream.read(_MOST).strip("\0\n ") or None
    except OSError:
        return None


def number(path: str) -> Optional[int]:
    """Return the whole number in a file, if it holds one."""
    said = read(path) or ""
    return int(said) if re.match(r"-?[0-9]+$", said) else None


def found(under: str, pattern: str) -> List[str]:
    """Return the paths that match, policy2 before policy10."""
    paths = glob.glob(glob.escape(under) + pattern)
    return sorted(
        paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", path)]
    )


def own_or_real(under: str, path: str) -> str:
    """Return the fake board's file where it has that one, else this machine's."""
    return under + path if os.path.exists(under + path) else path


def boot(under: str) -> str:
    """Return the name of this start of the board: what was set at another is gone."""
    return read(own_or_real(under, "/proc/sys/kernel/random/boot_id")) or "unknown"
