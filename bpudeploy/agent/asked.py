"""The host's commands: frozen fields, parsed strictly, so that a wrong one is refused before anything is done."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Type, TypeVar

from .drivers.base import Refused


@dataclass(frozen=True)
class Nothing:
    """Conditions, performance, unload, bye: the verb says it all."""


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

    def over(self, frames: int, seconds: float) -> bool:
        """Tell whether that is enough, or all the time there is."""
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


_IS: Dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int and value >= 0,
    "float": lambda value: type(value) in (int, float) and math.isfinite(value) and value >= 0,
    "Optional[str]": lambda value: value is None or isinstance(value, str),
}
_AT_LEAST_1 = ("streams", "top", "frames")
T = TypeVar("T")


def parse(kind: Type[T], command: Dict[str, Any]) -> T:
    """Return a command's fields as ``kind`` names and types them.

    Raises:
        Refused: one is missing, unknown or of another type.
    """
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {name: value for name, value in command.items() if name not in ("do", "within")}
    if set(given) != set(types):
        wrong = sorted(set(given) ^ set(types))
        raise Refused(f"{command['do']} takes {', '.join(types) or 'nothing'}; see {', '.join(wrong)}", OTHER_VERSION)
    for name, value in given.items():
        if not _IS[types[name]](value) or (name in _AT_LEAST_1 and value < 1):
            raise Refused(f"{command['do']}: {name} cannot be {value!r}", OTHER_VERSION)
    if given.get("sha256") is not None and not re.match("[0-9a-f]{64}$", given["sha256"]):
        raise Refused(f"{command['do']}: sha256 cannot be {given['sha256']!r}", OTHER_VERSION)
    return kind(**given)


OTHER_VERSION = "host and agent are of two versions, or something else speaks to the agent"
