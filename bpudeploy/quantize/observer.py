"""One pass over the calibration images: a histogram of |x| for each tap, in memory that does not grow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import Observer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST = 2.0**-100
"""A tap that never exceeds this is as good as zero; a scale made of less would leave float32's normal range."""
MANTISSA = 10
"""Bits of the mantissa that name a bin: 1024 bins between a power of two and the next."""
OCTAVES = 20
"""How far the bins reach down from the octave of the maximum; half a step of the lowest candidate is still inside."""
BINS = OCTAVES << MANTISSA
_SHIFT = 23 - MANTISSA
_PIECE = 65_536
"""Values counted at once: their indices stay in a core's second cache."""

_LOWEST = 12
"""MSE looks down to 2^-12 of the maximum. One value M among N of size 1 is clipped if about M < sqrt(N): 4096 is
reached at 17 million."""
_COARSE = 8
_FINE = 16

_EQUAL_BINS = 2048
_ENTROPY_LEVELS = 128


def largest_of(values: NDArray[np.float32]) -> float:
    """Return the largest |x|, 0 of nothing.

    Raises:
        ValueError: a value is not finite.
    """
    if not values.size:
        return 0.0
    largest = max(abs(float(values.max())), abs(float(values.min())))  # NaN comes through both
    if not math.isfinite(largest):
        raise ValueError("a value is not finite")
    return largest


class Histogram:
    """Counts of |x| by the top bits of its float32: 1024 equal bins in each of 20 octaves, the maximum's the highest.

    Bin 0 also holds all that is smaller, zeros too. A larger value moves the octaves up and adds the bins that
    fall out at the bottom to bin 0. Each count depends on the values and the final maximum only: the result does
    not depend on the order of the images or on how they are batched. Whatever the threshold T, an int8 step
    T / 127 is 8 to 16 bins wide just below T, and more of them further down.
    """

    def __init__(self) -> None:
        import numpy as np

        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.maximum = 0.0
        self._foot = 0  # the float32 pattern where bin 0 would begin if it held nothing smaller

    def add(self, values: NDArray[np.float32]) -> None:
        """Count every element of ``values`` (any shape).

        Raises:
            ValueError: a value is not finite; nothing of ``values`` was counted.
        """
        import numpy as np

        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if not flat.size:
            return
        self._reach(largest_of(flat))
        bits = flat.view(np.int32)
        scratch = np.empty(min(flat.size, _PIECE), dtype=np.int32)
        for start in range(0, flat.size, _PIECE):
            part = bits[start : start + _PIECE]
            index = np.bitwise_and(part, 0x7FFFFFFF, out=scratch[: part.size])
            np.clip(index, self._foot, 0x7FFFFFFF, out=index)  # np.maximum with a number is three times slower
            index -= self._foot
            index >>= _SHIFT
            found = np.bincount(index)
            self.counts[: found.size] += found

    def _reach(self, largest: float) -> None:
        """Make room for ``largest``."""
        import numpy as np

        if largest <= self.maximum:
            return
        self.maximum = largest
        foot = max(0, math.frexp(largest)[1] + 126 - OCTAVES + 1) << 23  # frexp's 0.5 to 1 has float32's exponent 126
        away = min((foot - self._foot) >> _SHIFT, BINS - 1)
        self._foot = foot
        if away:
            moved = np.zeros_like(self.counts)
            moved[: BINS - away] = self.counts[away:]
            moved[0] = self.counts[: away + 1].sum()
            self.counts = moved

    @property
    def edges(self) -> NDArray[np.float64]:
        """The borders of the bins, one more than there are bins: from 0, and none above the maximum."""
        import numpy as np

        bits = (np.arange(BINS + 1, dtype=np.int32) << _SHIFT) + np.int32(self._foot)
        edges = bits.view(np.float32).astype(np.float64)
        edges[0] = 0.0
        return np.minimum(edges, self.maximum)


def threshold(
    histogram: Histogram, observer: Observer, percentile: float, precision: Precision = Precision.INT8
) -> float:
    """Return where to clip |x|, above 0 and at most its maximum (1 for a tap that is as good as zero).

    minmax: the maximum. percentile: the upper edge of the bin where ``percentile`` % of the values are
    reached. mse: the least squared error of rounding to int8. entropy: the least Kullback-Leibler divergence.

    In int16 both searches give the maximum: clipping one value far above N others improves the squared error by a
    factor of 1 + N / (12 * 32767^2) at most, 1 % at 128 million, and an int16 step is narrower than a bin. A
    percentile is what was asked for, in int16 too.

    Raises:
        ValueError: float32 has no threshold.
    """
    levels = precision.levels
    if histogram.maximum < SMALLEST:
        return 1.0
    match observer:
        case Observer.MINMAX:
            return histogram.maximum
        case Observer.PERCENTILE:
            return _percentile(histogram, percentile)
        case _ if precision is Precision.INT16:
            return histogram.maximum
        case Observer.MSE:
            return _least_squares(histogram, levels)
        case Observer.ENTROPY:
            return _least_divergence(histogram)


def _percentile(histogram: Histogram, percentile: float) -> float:
    import numpy as np

    running = np.cumsum(histogram.counts)
    reached = int(np.searchsorted(running, running[-1] * percentile / 100.0))
    return float(histogram.edges[min(reached, BINS - 1) + 1])


def _least_squares(histogram: Histogram, levels: int) -> float:
    """Return the T with the least sum of h(b) (b - Q_T(b))^2 over the bins' centres b.

    First 8 candidates an octave from the maximum down, until what is clipped costs more by itself than the best;
    then 16 times as close around the best.

    Inside a bin of width w the values vary by w^2 / 12 about the centre. Where Q_T is constant in the bin, or the
    bin is clipped, that adds h(b) w^2 / 12 whatever T is, so it is left out; it is wrong only in the bins where
    Q_T jumps, at most one in eight here (with equal bins as wide as a step, it would be all of them).
    """
    import numpy as np

    used = histogram.counts > 0
    edges, counts = histogram.edges, histogram.counts[used].astype(np.float64)
    centres = ((edges[:-1] + edges[1:]) / 2)[used]
    moments = [np.cumsum((counts * centres**power)[::-1])[::-1] for power in (0, 1, 2)]

    def limit(octaves: float) -> float:
        return histogram.maximum * math.exp2(-octaves)

    def clipped(octaves: float) -> float:
        at = int(np.searchsorted(centres, limit(octaves)))
        if at == len(centres):
            return 0.0
        many, first, second = (float(m[at]) for m in moments)
        return second - 2 * limit(octaves) * first + limit(octaves) ** 2 * many

    def error(octaves: float) -> float:
        scale = limit(octaves) / levels
        off = centres / scale
        np.minimum(np.rint(off, out=off), levels, out=off)
        off *= scale
        off -= centres
        off *= off
        return float(np.einsum("b,b->", counts, off))  # not BLAS: its threads sum in another order

    least, coarse = math.inf, 0.0
    for octaves in (k / _COARSE for k in range(_LOWEST * _COARSE + 1)):
        if clipped(octaves) > least:
            break
        if (found := error(octaves)) < least:
            least, coarse = found, octaves
    near = (coarse + k / (_COARSE * _FINE) for k in range(-_FINE + 1, _FINE))
    return limit(min((octaves for octaves in near if octaves >= 0.0), key=error))


def _least_divergence(histogram: Histogram) -> float:
    """Return the T with the least divergence of 128 levels from what they stand for; of equal ones the largest.

    Source: Migacz, 8-bit inference with TensorRT (GTC 2017): 2048 equal bins, of which the first i = 128, 129, ...
    stay; P is those i with the clipped mass in the last, Q the same without it, in 128 levels, each level's mass
    spread evenly over those of its bins that hold anything.
    Here the 2048 bins end at the power of two above the maximum, and these points are settled:

    - Values below 2^-20 of the maximum are left out: 0 is exact whatever T is. (NVIDIA's pytorch-quantization
      gives the first bin the count of the second; onnxruntime counts zeros, and clips what a ReLU makes too low.)
    - No smoothing: the clipped mass goes to the last of the i bins that holds anything, so Q is above 0 where P is.
    - T is at least 1/16 of that power of two. A single far value costs almost nothing here, so nothing else would
      keep a channel of outliers from being clipped away.
    """
    import numpy as np

    width = 2.0 ** math.frexp(histogram.maximum)[1] / _EQUAL_BINS
    counts = histogram.counts.astype(np.float64)
    counts[0] = 0.0
    # Each bin lies inside one equal bin: the highest octave's are as wide, the others narrower.
    equal = np.bincount((histogram.edges[:-1] / width).astype(np.intp), weights=counts).astype(np.float64)
    divergences = _divergences(equal)
    best = len(equal) - int(np.argmin(divergences[::-1]))
    return min(histogram.maximum, best * width)


def _divergences(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(P || Q) for each i from 128 to the number of bins; the last bin is not empty.

    With c values in the n used bins of a level, Q = c / (n inside) there, ``inside`` being the sum of the first i.
    So KL = [sum_b h log h - sum_levels c log(c / n)] / total + log(inside / total), but for the clipped mass; the
    first sum is a running one, and a level's c and n are differences of running sums.
    """
    import numpy as np

    def running(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([[0.0], np.cumsum(values)])

    def self_information(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values * np.log(np.maximum(values, 1.0))  # counts are 0 or at least 1

    def border(level: NDArray[np.intp], kept: NDArray[np.intp]) -> NDArray[np.intp]:
        return -(-level * kept // _ENTROPY_LEVELS)

    sums, used, informed = running(bins), running((bins > 0).astype(np.float64)), running(self_information(bins))
    kept = np.arange(_ENTROPY_LEVELS, len(bins) + 1)
    spread = np.empty(len(kept))
    for start in range(0, len(kept), 256):
        borders = border(np.arange(_ENTROPY_LEVELS + 1), kept[start : start + 256, None])
        count, over = np.diff(sums[borders], axis=1), np.maximum(np.diff(used[borders], axis=1), 1.0)
        spread[start : start + 256] = (count * np.log(np.maximum(count, 1.0) / over)).sum(axis=1)

    inside, total = sums[kept], sums[-1]
    clipped = total - inside
    last = np.maximum.accumulate(np.where(bins > 0, np.arange(len(bins)), -1))[kept - 1]
    level = np.maximum(last, 0) * _ENTROPY_LEVELS // kept
    low, high = border(level, kept), border(level + 1, kept)
    even = (sums[high] - sums[low]) / np.maximum(used[high] - used[low], 1.0)
    own = bins[last]
    tail = self_information(own + clipped) - self_information(own) - clipped * np.log(np.maximum(even, 1.0))
    found: NDArray[np.float64] = (informed[kept] - spread + tail) / total + np.log(np.maximum(inside, 1.0) / total)
    found[last < 0] = np.inf  # nothing stays
    return found
