"""Read the board's /sys, /proc and /etc; ``under`` is a folder prefix with which tests provide a fake board."""

from __future__ import annotations

import glob
import os
import re
from typing import List, Optional

_MAX_BYTES = 1 << 20


def read(path: str) -> Optional[str]:
    """Return a file's stripped text; None if it is empty, missing or unreadable (as for a switched-off sensor)."""
    try:
        with open(path, errors="replace") as stream:
            return stream.read(_MAX_BYTES).strip("\0\n ") or None
    except OSError:
        return None


def read_int(path: str) -> Optional[int]:
    """Return the integer in a file, or None."""
    text = read(path) or ""
    return int(text) if re.match(r"-?[0-9]+$", text) else None


def find(under: str, pattern: str) -> List[str]:
    """Return the paths that match, in natural order (policy2 before policy10)."""
    paths = glob.glob(glob.escape(under) + pattern)
    return sorted(
        paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", path)]
    )


def fake_or_real(under: str, path: str) -> str:
    """Return the fake board's file if it has one, else this machine's."""
    return under + path if os.path.exists(under + path) else path


def boot_id(under: str) -> str:
    """Return the ID of the current boot: settings made in another boot are gone."""
    return read(fake_or_real(under, "/proc/sys/kernel/random/boot_id")) or "unknown"
