"""What is found out about a quantized network: how far each layer is off, and what repair did."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from bpudeploy.spec.precision import Precision


class Value(BaseModel):
    """Frozen, with no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(Value):
    """What a FINDINGS artifact holds, as JSON."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a FINDINGS artifact."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> Path:
        """Write a FINDINGS artifact and return its path."""
        path.write_text(self.model_dump_json())
        return path


class Layer(Value):
    """One Conv or MatMul of the quantized network against the same of the float network, on the same images.

    ``sqnr_db``: 10 log10 of the float output's power over that of the difference, within ±150. ``cosine``: between the
    outputs.
    """

    node: str
    op: str
    index: int
    """Its place among the layers in the graph's order, from 0."""
    inputs: tuple[Precision, ...]
    """How each of its inputs that are no constants is held."""
    sqnr_db: float
    cosine: float

    @property
    def held(self) -> str:
        """Its inputs in words: ``int8``, or ``int8 x int16`` where they differ."""
        return " x ".join(dict.fromkeys(self.inputs))


class Layers(Finding):
    """Every layer, the worst (least SQNR) first."""

    images: int
    layers: tuple[Layer, ...]


class Candidate(Value):
    """A tap that could be int16: what it alone, in int8, does to the outputs, and what int16 would cost.

    ``error``: mean squared difference of the outputs, over their variance, when only this tap is rounded.
    ``cost``: predicted time with it in int16 over that without, less 1, of the whole network: from counts, not
    measured. None where the march has no int16 for what reads it.
    """

    tap: str
    products: tuple[str, ...]
    error: float
    cost: float | None


class Outcome(StrEnum):
    """How repair ended."""

    HELD = "held"  # the gate held as it was
    REPAIRED = "repaired"  # it holds with the promotions
    BEST = "best reached"  # it does not hold with any number of promotions that was tried
    NOT_POSSIBLE = "not possible"  # nothing can be promoted: the march has no int16, or has all of it already


class Trial(Value):
    """One evaluation. ``promoted``: how many candidates were in int16, the best of those that the budget has room for.

    ``drop``: in points of top-1. ``slowdown``: predicted time over that of the network before.
    """

    promoted: int
    drop: float
    slowdown: float


class Repair(Finding):
    """What repair tried and where it ended. Every ``slowdown`` is predicted, none was measured.

    ``drop`` is that on the images by which the promotions were chosen: a little better than on others.
    """

    outcome: Outcome
    max_drop: float
    max_slowdown: float | None
    images: int
    ranked: tuple[Candidate, ...]
    """By error over cost, the best first; empty where the gate held."""
    trials: tuple[Trial, ...]
    """The first is the network as it was."""
    promoted: tuple[str, ...]
    drop: float
    slowdown: float

    @property
    def holds(self) -> bool:
        """Whether the drop is within the promise."""
        return self.drop <= self.max_drop
