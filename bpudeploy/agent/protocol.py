"""The protocol between host and agent: JSON commands in, parsed strictly before anything runs; JSON lines out."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Type, TypeVar

from .drivers.base import Refused

CLOSING = tuple(b'{"is":"%s"' % kind for kind in (b"hello", b"done", b"failed"))
"""Beginnings of the lines after which the host may send the next command; ``line`` writes ``is`` first."""
VERSION_MISMATCH = "host and agent have different versions, or another program is talking to the agent"


@dataclass(frozen=True)
class NoFields:
    """Of the commands conditions, performance, unload and bye."""


@dataclass(frozen=True)
class Load:
    subject: str
    model: str
    sha256: Optional[str]
    runtime: str
    threads: int
    samples: str


@dataclass(frozen=True)
class Round:
    warmup: int
    min_frames: int
    min_seconds: float
    max_seconds: float
    streams: int
    first: int

    def is_complete(self, frames: int, seconds: float) -> bool:
        """Return whether the minimums are reached or the time is up."""
        enough = frames >= self.min_frames and seconds >= self.min_seconds
        return frames >= 2 and (enough or seconds >= self.max_seconds)


@dataclass(frozen=True)
class Classify:
    first: int
    last: int
    top: int
    logits: bool


@dataclass(frozen=True)
class Layers:
    frames: int


_VALIDATORS: Dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int and value >= 0,
    "float": lambda value: type(value) in (int, float) and math.isfinite(value) and value >= 0,
    "Optional[str]": lambda value: value is None or isinstance(value, str),
}
_AT_LEAST_1 = ("streams", "top", "frames")
T = TypeVar("T")


def parse(kind: Type[T], command: Dict[str, Any]) -> T:
    """Return a command's fields as an instance of ``kind``.

    Raises:
        Refused: a field is missing, unknown or invalid.
    """
    verb = command["do"]
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    fields = {name: value for name, value in command.items() if name not in ("do", "within")}
    if set(fields) != set(types):
        wrong = sorted(set(fields) ^ set(types))
        raise Refused(f"{verb} takes {', '.join(types) or 'nothing'}; see {', '.join(wrong)}", VERSION_MISMATCH)
    for name, value in fields.items():
        if not _VALIDATORS[types[name]](value) or (name in _AT_LEAST_1 and value < 1):
            raise Refused(f"{verb}: {name} cannot be {value!r}", VERSION_MISMATCH)
    if fields.get("sha256") is not None and not re.match("[0-9a-f]{64}$", fields["sha256"]):
        raise Refused(f"{verb}: sha256 cannot be {fields['sha256']!r}", VERSION_MISMATCH)
    return kind(**fields)


def line(kind: str, **fields: object) -> bytes:
    """Return one line for the host.

    Raises:
        ValueError: a number is not finite, which JSON cannot represent.
    """
    return json.dumps({"is": kind, **fields}, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def write_line(descriptor: int, kind: str, **fields: object) -> None:
    """Write one line for the host to a file descriptor, unbuffered."""
    rest = memoryview(line(kind, **fields))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
