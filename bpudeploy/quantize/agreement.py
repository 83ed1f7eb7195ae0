"""How far onnxruntime's run of a QDQ graph is from a BPU's integers, at every tap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpudeploy.quantize.findings import Finding, Value
from bpudeploy.spec.precision import Precision, Rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Signed = NDArray[np.signedinteger[Any]]


class SumRange(Value):
    """The sums of a product: how many, the largest |sum|, and how many did not fit int32 and were saturated.

    Only whole sums are looked at: an accumulator that saturates on its way, and would not at its end, may differ.
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


class Steps(Value):
    """Integers against integers: how many, how many differ, and by how much at most."""

    elements: int = 0
    differing: int = 0
    worst: int = 0

    @classmethod
    def between(cls, own: Signed, other: Signed) -> Steps:
        """Compare two arrays of one shape."""
        import numpy as np

        apart = np.abs(own.astype(np.int32) - other.astype(np.int32))
        return cls(elements=apart.size, differing=int(np.count_nonzero(apart)), worst=int(apart.max()))

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            elements=self.elements + other.elements,
            differing=self.differing + other.differing,
            worst=max(self.worst, other.worst),
        )

    @property
    def share(self) -> float:
        """The share of the integers that differ."""
        return self.differing / self.elements


class TapAgreement(Value):
    """One tap. ``forced``: from onnxruntime's integers at every tap before it, so that only what is between differs;
    ``free``: from the executor's own, so that differences add up. ``made_by`` is the operator whose result it rounds.
    """

    precision: Precision
    made_by: str
    forced: Steps
    free: Steps


class OutputAgreement(Value):
    """One output of the network: the largest difference, over the largest value, as ``TapAgreement`` has them."""

    forced: float
    free: float


class Agreement(Finding):
    """How far onnxruntime's QDQ graph is from integers, over ``images``; ``sums`` are those of the free run."""

    rounding: Rounding
    images: int
    taps: dict[str, TapAgreement]
    outputs: dict[str, OutputAgreement]
    sums: dict[str, SumRange]

    @property
    def within_one_step(self) -> bool:
        """Whether each tap, forced, is at most one step off."""
        return not self.exceptions

    @property
    def exceptions(self) -> tuple[str, ...]:
        """The taps that are more than one step off when forced, the worst first."""
        found = {name: tap.forced for name, tap in self.taps.items() if tap.forced.worst > 1}
        return tuple(sorted(found, key=lambda name: (-found[name].worst, -found[name].share, name)))

    @property
    def overflowed(self) -> tuple[str, ...]:
        """The products with sums that do not fit int32, those with the most first."""
        found = {name: sums.overflows for name, sums in self.sums.items() if sums.overflows}
        return tuple(sorted(found, key=lambda name: (-found[name], name)))
