"""Events of a run. Stages and effects emit them; only ``cli.output`` displays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Cache = Literal["hit", "miss"]


@dataclass(frozen=True)
class StepStarted:
    """A step that is not in the store, or an effect, starts."""

    step: str


@dataclass(frozen=True)
class StepWaiting:
    """Waiting for another process that runs the same step."""

    step: str


@dataclass(frozen=True)
class StepFinished:
    """A step's artifacts are in the store. ``peak_mb`` is None for a hit."""

    step: str
    cache: Cache
    digests: tuple[str, ...]
    seconds: float
    peak_mb: float | None = None


@dataclass(frozen=True)
class Note:
    """A message of a stage or an effect."""

    step: str
    text: str


@dataclass(frozen=True)
class Progress:
    """Work done so far; ``total`` is in the same ``unit`` ("images", "bytes", "frames")."""

    step: str
    done: int
    total: int
    unit: str


Event = StepStarted | StepWaiting | StepFinished | Note | Progress


def progress(emit: Callable[[Event], None], step: str, total: int, unit: str) -> Callable[[int], None]:
    """Return the function that reports how much of ``total`` is done."""
    return lambda done: emit(Progress(step, done, total, unit))
