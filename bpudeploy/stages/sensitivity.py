"""Sensitivity of a quantized network, for repair and ``bpudeploy sensitivity``: effect and int16 cost of each tap."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Event, progress
from bpudeploy.quantize.findings import PromotionCandidate
from bpudeploy.quantize.record import QuantizeRecord, int8_taps
from bpudeploy.quantize.slowdown import slowdown
from bpudeploy.spec.precision import PrecisionRules
from bpudeploy.stages.feed import Feed

if TYPE_CHECKING:
    import onnx

    from bpudeploy.quantize.arrays import F64

RANKING_IMAGES = 4
"""Number of calibration images for ranking taps; 7 give about the same ranks (see ``quantize.sensitivity``)."""
CORRECTION_IMAGES = 64
"""Maximum number of calibration images for estimating the int8 correction in the biases: a mean needs more."""


@dataclass
class QuantizedNetwork:
    """A quantized network, loaded on first use: ``prepared`` is its float graph, ``qdq`` its QDQ form.

    ``rules`` of the march; ``corrected``: biases compensate for int8 (``quantize.weights.correct_bias``).
    """

    prepared: Path
    qdq: Path
    calibration: Samples
    normalise: Normalisation
    rules: PrecisionRules
    corrected: bool
    step: str
    emit: Callable[[Event], None]

    @cached_property
    def graph(self) -> onnx.ModelProto:
        import onnx

        return onnx.load(self.prepared)

    @cached_property
    def quantized(self) -> onnx.ModelProto:
        import onnx

        return onnx.load(self.qdq)

    @cached_property
    def record(self) -> QuantizeRecord:
        return QuantizeRecord.read(self.quantized)

    @cached_property
    def bias_corrections(self) -> dict[str, F64]:
        """The corrections for int8 inputs in the biases (``bias_corrections``)."""
        from bpudeploy.quantize.bias_correction import PASSES, bias_corrections

        if not self.corrected:
            return {}
        feed = Feed.of(self.graph, self.calibration, self.normalise, CORRECTION_IMAGES)
        return bias_corrections(
            self.graph,
            self.record,
            feed.batch,
            len(feed),
            progress(self.emit, self.step, PASSES * len(feed), "runs"),
        )

    @cached_property
    def _macs(self) -> dict[str, int]:
        from bpudeploy.conformance.cost import multiply_accumulates

        return multiply_accumulates(self.graph)

    def slowdown(self, taps: Collection[str]) -> float:
        """Return the predicted time with ``taps`` in int16, as a factor of the time without."""
        return slowdown(self.record, self._macs, self.rules.int16_cost, taps)

    def ranked(self, count: int) -> tuple[PromotionCandidate, ...]:
        """Rank every int8 tap on ``count`` calibration images."""
        from bpudeploy.quantize.sensitivity import rank

        images = list(Feed.of(self.graph, self.calibration, self.normalise, count))
        runs = len(images) * len(int8_taps(self.record))
        return rank(
            self.graph,
            self.quantized,
            self.rules,
            images,
            self.slowdown,
            self.bias_corrections,
            progress(self.emit, self.step, runs, "runs"),
        )
