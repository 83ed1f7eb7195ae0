"""Reports on a quantized network: the deviation of each layer from float, and the result of repair."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from bpudeploy.quantize.record import StoredModel
from bpudeploy.spec.precision import Precision


def change_text(drop: float) -> str:
    """Return a change of accuracy, new - float, with its sign; ``drop`` is float - new, in percentage points."""
    return f"{0 - drop:+z.2f}"


class FindingsFile(StoredModel):
    """The content of a FINDINGS artifact, stored as JSON."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a FINDINGS artifact."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> Path:
        """Write a FINDINGS artifact and return its path."""
        path.write_text(self.model_dump_json())
        return path


class LayerDeviation(StoredModel):
    """The output of one quantized Conv or MatMul compared with the float network's, on the same images.

    ``sqnr_db``: signal-to-quantization-noise ratio in dB, clamped to ±150. ``cosine``: cosine similarity.
    """

    node: str
    op: str
    index: int
    """Its position among the layers in graph order, from 0."""
    inputs: tuple[Precision, ...]
    """The precision of each non-constant input."""
    sqnr_db: float
    cosine: float

    @property
    def input_precisions(self) -> str:
        """The precisions of its inputs as text: ``int8``, or ``int8 x int16`` if they differ."""
        return " x ".join(dict.fromkeys(self.inputs))


class LayerReport(FindingsFile):
    """Every layer, lowest SQNR first."""

    images: int
    layers: tuple[LayerDeviation, ...]


class PromotionCandidate(StoredModel):
    """A tap that could be promoted to int16.

    ``error``: mean squared difference of the outputs, relative to their variance, if only this tap is in int8.
    ``cost``: predicted relative increase of the network's latency with this tap in int16, counted and not measured;
    None if the march has no int16 for a node that reads it.
    """

    tap: str
    products: tuple[str, ...]
    error: float
    cost: float | None


class RepairOutcome(StrEnum):
    """The result of repair."""

    NOT_NEEDED = "held"  # the accuracy check passed without any promotion
    REPAIRED = "repaired"  # it passes with the promotions
    BEST_EFFORT = "best reached"  # it fails with every number of promotions that was tried
    NOT_POSSIBLE = "not possible"  # nothing to promote: the march has no int16, or everything is int16 already


class RepairTrial(StoredModel):
    """One evaluation. ``promoted``: how many of the affordable candidates were in int16, best first.

    ``drop``: in points of top-1. ``slowdown``: predicted latency relative to that before repair.
    """

    promoted: int
    drop: float
    slowdown: float


class RepairReport(FindingsFile):
    """What repair tried and its result. Every ``slowdown`` is predicted, not measured.

    ``latency_us``: the compiler's estimate without promotions, if accuracy is that of the binary's integers and each
    slowdown is added up from the compiler's estimates by node; None if both are of the QDQ graph.

    ``drop`` is measured on the images that selected the promotions, so it is slightly optimistic.
    """

    outcome: RepairOutcome
    max_drop: float
    max_slowdown: float | None
    images: int
    ranked: tuple[PromotionCandidate, ...]
    """Best error/cost ratio first; empty if repair was not needed."""
    trials: tuple[RepairTrial, ...]
    """The first is without promotions."""
    promoted: tuple[str, ...]
    drop: float
    slowdown: float
    latency_us: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the drop is within ``max_drop``."""
        return self.drop <= self.max_drop
