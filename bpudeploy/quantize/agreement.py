"""How well onnxruntime's run of a QDQ graph agrees with the integers of a BPU, at every tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpudeploy.quantize.findings import FindingsFile
from bpudeploy.quantize.record import StoredModel
from bpudeploy.spec.precision import Precision, Rounding

if TYPE_CHECKING:
    from bpudeploy.quantize.arrays import Signed


class SumRange(StoredModel):
    """Accumulator values of a Conv or MatMul: their number, the largest |sum|, and how many overflowed int32.

    Only final sums are checked. An accumulator that saturates midway may differ.
    """

    elements: int = 0
    peak: int = 0
    overflows: int = 0

    def __add__(self, other: SumRange) -> SumRange:
        return SumRange(
            elements=self.elements + other.elements,
            peak=max(self.peak, other.peak),
            overflows=self.overflows + other.overflows,
        )


class IntegerDifference(StoredModel):
    """Two integer tensors compared: their number of elements, how many differ, and the largest difference."""

    elements: int = 0
    differing: int = 0
    worst: int = 0

    @classmethod
    def between(cls, own: Signed, other: Signed) -> IntegerDifference:
        """Compare two arrays of the same shape."""
        import numpy as np

        apart = np.abs(own.astype(np.int32) - other.astype(np.int32))
        return cls(elements=apart.size, differing=int(np.count_nonzero(apart)), worst=int(apart.max()))

    def __add__(self, other: IntegerDifference) -> IntegerDifference:
        return IntegerDifference(
            elements=self.elements + other.elements,
            differing=self.differing + other.differing,
            worst=max(self.worst, other.worst),
        )

    @property
    def share(self) -> float:
        """The fraction of elements that differ."""
        return self.differing / self.elements


class TapAgreement(StoredModel):
    """One tap. ``forced``: computed from onnxruntime's integers at all preceding taps, so errors do not accumulate.

    ``free``: computed from our own integers, so errors accumulate. ``made_by``: the operator whose output is rounded.
    """

    precision: Precision
    made_by: str
    forced: IntegerDifference
    free: IntegerDifference


class OutputAgreement(StoredModel):
    """One network output: the largest difference, relative to the largest value; see ``TapAgreement``."""

    forced: float
    free: float


class Agreement(FindingsFile):
    """Agreement over ``images`` images; ``sums`` are those of the free run."""

    rounding: Rounding
    images: int
    taps: dict[str, TapAgreement]
    outputs: dict[str, OutputAgreement]
    sums: dict[str, SumRange]

    @property
    def within_one_step(self) -> bool:
        """Whether every tap, forced, differs by at most one step."""
        return not self.exceptions

    @property
    def exceptions(self) -> tuple[str, ...]:
        """The taps that differ by more than one step when forced, worst first."""
        found = {name: tap.forced for name, tap in self.taps.items() if tap.forced.worst > 1}
        return tuple(sorted(found, key=lambda name: (-found[name].worst, -found[name].share, name)))

    @property
    def overflowed(self) -> tuple[str, ...]:
        """The nodes whose sums overflow int32, most overflows first."""
        found = {name: sums.overflows for name, sums in self.sums.items() if sums.overflows}
        return tuple(sorted(found, key=lambda name: (-found[name], name)))
