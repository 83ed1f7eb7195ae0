"""One pass over the calibration images: a histogram of |x| for each tap, in memory that does not grow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bpudeploy.spec.recipe import Observer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BINS = 2048
LEVELS = 127
"""Symmetric int8 runs from -127 to 127; scale = threshold / 127."""
SMALLEST = 2.0**-100
"""A tap that never exceeds this is as good as zero; smaller bins would overflow float32."""
_CANDIDATES = 100
_SMALLEST_SHARE = 0.2


class Histogram:
    """Counts of |x| in 2048 equal bins below ``edge``, a power of two.

    A larger value doubles the edge and adds bins pairwise, which is exact: the result does not depend
    on the order of the images.
    """

    def __init__(self) -> None:
        import numpy as np

        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.edge = 0.0
        self.maximum = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count every element of ``values`` (any shape).

        Raises:
            ValueError: a value is not finite.
        """
        import numpy as np

        size = np.abs(values).reshape(-1)
        largest = float(size.max(initial=0.0))
        if not math.isfinite(largest):
            raise ValueError("a value is not finite")
        self.maximum = max(self.maximum, largest)
        self._widen(largest)
        size *= np.float32(BINS / self.edge)
        np.minimum(size, np.float32(BINS - 1), out=size)
        self.counts += np.bincount(size.astype(np.int32), minlength=BINS)

    def _widen(self, largest: float) -> None:
        import numpy as np

        if self.edge == 0.0:
            self.edge = max(SMALLEST, 2.0 ** (math.floor(math.log2(largest)) + 1) if largest else 0.0)
        while largest >= self.edge:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, dtype=np.int64)])
            self.edge *= 2.0

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        import numpy as np

        return (np.arange(BINS, dtype=np.float64) + 0.5) * (self.edge / BINS)


def threshold(histogram: Histogram, observer: Observer, percentile: float) -> float:
    """Return where to clip |x|, above 0 and at most its maximum (1 for a tap that is as good as zero).

    minmax: the maximum. percentile: the upper edge of the bin where ``percentile`` % of the values are
    reached. mse: the threshold T that minimises sum of h(b) (b - Q_T(b))^2 over the bins' centres, Q_T
    being symmetric int8 with scale T / 127.
    """
    if histogram.maximum < SMALLEST:
        return 1.0
    match observer:
        case Observer.MINMAX:
            return histogram.maximum
        case Observer.PERCENTILE:
            return _percentile(histogram, percentile)
        case Observer.MSE:
            return _least_squares(histogram)


def _percentile(histogram: Histogram, percentile: float) -> float:
    import numpy as np

    running = np.cumsum(histogram.counts)
    bin = int(np.searchsorted(running, running[-1] * percentile / 100.0))
    return min(histogram.maximum, (bin + 1) * histogram.edge / BINS)


def _least_squares(histogram: Histogram) -> float:
    import numpy as np

    used = histogram.counts > 0
    centres, counts = histogram.centres[used], histogram.counts[used].astype(np.float64)
    best, chosen = math.inf, histogram.maximum
    for share in np.linspace(1.0, _SMALLEST_SHARE, _CANDIDATES):
        scale = share * histogram.maximum / LEVELS
        rounded = np.minimum(np.rint(centres / scale), LEVELS) * scale
        error = float(counts @ (centres - rounded) ** 2)
        if error < best:
            best, chosen = error, float(share * histogram.maximum)
    return chosen
