"""What is found out about a quantized network: how far each layer is off, and what repair did."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from bpudeploy.spec.precision import Precision


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Layer(_Value):
    """One Conv or MatMul of the quantized network against the same of the float network, on the same images.

    ``sqnr_db``: 10 log10 of the float output's power over that of the difference. ``cosine``: between the outputs.
    """

    node: str
    op: str
    precision: Precision
    """Of its first input."""
    sqnr_db: float
    cosine: float


class Layers(_Value):
    """Every layer, the worst (least SQNR) first."""

    images: int
    layers: tuple[Layer, ...]


class Candidate(_Value):
    """A tap that could be int16: what it alone, in int8, does to the logits, and what int16 would cost.

    ``error``: mean squared difference of the logits, over their variance, when only this tap is rounded.
    ``cost``: predicted time in int16 over that in int8, less 1, of the whole network (from counts, not measured).
    """

    tap: str
    products: tuple[str, ...]
    error: float
    cost: float


class Outcome(StrEnum):
    """How repair ended."""

    HELD = "held"  # the gate held as it was
    REPAIRED = "repaired"  # it holds with the promotions
    BEST = "best reached"  # it does not hold with any number of promotions that was allowed
    NOT_POSSIBLE = "not possible"  # the march has no int16


class Trial(_Value):
    """One evaluation: the first ``promoted`` candidates in int16; ``drop`` in points of top-1; predicted slowdown."""

    promoted: int
    drop: float
    slowdown: float


class Repair(_Value):
    """What repair tried and where it ended; ``slowdown`` is predicted: time over that of the network before it."""

    outcome: Outcome
    max_drop: float
    max_slowdown: float | None
    images: int
    ranked: tuple[Candidate, ...]
    """By error over cost, the best first; empty where the gate held."""
    trials: tuple[Trial, ...]
    promoted: tuple[str, ...]
    drop: float
    slowdown: float
