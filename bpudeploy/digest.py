"""Digests of bytes and of canonical values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NewType

Digest = NewType("Digest", str)
"""sha256 of some bytes, as 64 lower-case hex digits."""

Key = NewType("Key", str)
"""sha256 of a tagged canonical value, as 64 lower-case hex digits."""


def digest_bytes(data: bytes) -> Digest:
    """Return the sha256 of ``data``."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_file(path: Path) -> Digest:
    """Return the sha256 of a file's bytes, read in bounded memory."""
    with path.open("rb") as stream:
        return Digest(hashlib.file_digest(stream, "sha256").hexdigest())


def canonical(value: object) -> str:
    """Return the canonical JSON of ``value``: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: for NaN or infinity.
        TypeError: for values without a JSON form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(tag: str, parts: object) -> Key:
    """Return the key of ``parts``; ``tag`` is the kind of key."""
    return Key(hashlib.sha256(canonical([tag, parts]).encode()).hexdigest())


def short(digest: str) -> str:
    """Return the first 12 digits, for display."""
    return digest[:12]
