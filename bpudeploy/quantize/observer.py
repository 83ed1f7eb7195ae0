"""Activation observers: a fixed-size histogram of |x| per tap, and the clipping thresholds derived from it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bpudeploy.quantize.arrays import F32, F64
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import Observer

SMALLEST = 2.0**-100
"""A tap that never exceeds this counts as zero; its scale would leave float32's normal range."""
MANTISSA = 10
"""Mantissa bits in a bin index: 1024 bins per octave."""
OCTAVES = 20
"""Octaves covered by the bins, below the maximum; this includes half a step of the lowest candidate threshold."""
BINS = OCTAVES << MANTISSA
_SHIFT = 23 - MANTISSA
_PIECE = 65_536
"""Values counted at once, so that their indices fit in the L2 cache."""

_LOWEST = 12
"""MSE searches down to 2^-12 of the maximum. It keeps one outlier M among N values of size 1 if M > sqrt(N), roughly;
4096 corresponds to 17 million values."""
_COARSE = 8
_FINE = 16

_EQUAL_BINS = 2048
_ENTROPY_LEVELS = 128


def abs_max(values: F32) -> float:
    """Return the largest |x|, or 0 if there are no values.

    Raises:
        ValueError: a value is not finite.
    """
    if not values.size:
        return 0.0
    largest = max(abs(float(values.max())), abs(float(values.min())))  # both propagate NaN
    if not math.isfinite(largest):
        raise ValueError("a value is not finite")
    return largest


class Histogram:
    """Counts of |x| by the top bits of its float32: 1024 equal bins in each of 20 octaves, up to that of the maximum.

    Bin 0 also counts everything smaller, including zeros. A larger value moves the octaves up and merges the lowest
    bins into bin 0. The counts depend only on the values and the final maximum, not on the order or batching of the
    images. For any threshold T, an int8 step T / 127 is 8 to 16 bins wide just below T, and more further down.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.maximum = 0.0
        self._foot = 0  # the float32 bit pattern of the nominal lower edge of bin 0

    def add(self, values: F32) -> None:
        """Count every element of ``values`` (any shape).

        Raises:
            ValueError: a value is not finite; none was counted.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if not flat.size:
            return
        self._raise_maximum(abs_max(flat))
        bits = flat.view(np.int32)
        scratch = np.empty(min(flat.size, _PIECE), dtype=np.int32)
        for start in range(0, flat.size, _PIECE):
            part = bits[start : start + _PIECE]
            index = np.bitwise_and(part, 0x7FFFFFFF, out=scratch[: part.size])
            np.clip(index, self._foot, 0x7FFFFFFF, out=index)  # np.maximum with a scalar is three times slower
            index -= self._foot
            index >>= _SHIFT
            found = np.bincount(index)
            self.counts[: found.size] += found

    def _raise_maximum(self, largest: float) -> None:
        """Move the bins up to cover ``largest``."""
        if largest <= self.maximum:
            return
        self.maximum = largest
        foot = max(0, math.frexp(largest)[1] + 126 - OCTAVES + 1) << 23  # frexp's [0.5, 1) has the float32 exponent 126
        away = min((foot - self._foot) >> _SHIFT, BINS - 1)
        self._foot = foot
        if away:
            moved = np.zeros_like(self.counts)
            moved[: BINS - away] = self.counts[away:]
            moved[0] = self.counts[: away + 1].sum()
            self.counts = moved

    @property
    def edges(self) -> F64:
        """The edges of the bins (BINS + 1), from 0, clipped at the maximum."""
        bits = (np.arange(BINS + 1, dtype=np.int32) << _SHIFT) + np.int32(self._foot)
        edges = bits.view(np.float32).astype(np.float64)
        edges[0] = 0.0
        return np.minimum(edges, self.maximum)


def threshold(
    histogram: Histogram, observer: Observer, percentile: float, precision: Precision = Precision.INT8
) -> float:
    """Return the clipping threshold of |x|: above 0, at most the maximum, and 1 for a tap that counts as zero.

    minmax: the maximum. percentile: the upper edge of the bin that contains the ``percentile``. mse: minimizes the
    squared error of rounding to int8. entropy: minimizes the Kullback-Leibler divergence.

    For int16, mse and entropy return the maximum: clipping one outlier among N values reduces the squared error by a
    factor of 1 + N / (12 * 32767^2) at most, 1 % at 128 million, and an int16 step is narrower than a bin.

    Raises:
        ValueError: ``precision`` is float32, which has no threshold.
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
            return _min_squared_error(histogram, levels)
        case Observer.ENTROPY:
            return _min_divergence(histogram)


def _percentile(histogram: Histogram, percentile: float) -> float:
    running = np.cumsum(histogram.counts)
    reached = int(np.searchsorted(running, running[-1] * percentile / 100.0))
    return float(histogram.edges[min(reached, BINS - 1) + 1])


def _min_squared_error(histogram: Histogram, levels: int) -> float:
    """Return the T that minimizes the sum of h(b) (b - Q_T(b))^2 over the bin centres b.

    Tries 8 candidates per octave from the maximum down, until the clipping error alone exceeds the best error; then
    refines 16-fold around the best.

    Values in a bin of width w have variance w^2 / 12 about the centre. If Q_T is constant in the bin, or the bin is
    clipped, this adds h(b) w^2 / 12 for any T, so it is omitted. It is wrong only for bins in which Q_T jumps, at most
    one in eight (with equal bins as wide as a step it would be all of them).
    """
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
        return float(np.einsum("b,b->", counts, off))  # not BLAS: its summation order depends on the threads

    least, coarse = math.inf, 0.0
    for octaves in (k / _COARSE for k in range(_LOWEST * _COARSE + 1)):
        if clipped(octaves) > least:
            break
        if (found := error(octaves)) < least:
            least, coarse = found, octaves
    near = (coarse + k / (_COARSE * _FINE) for k in range(-_FINE + 1, _FINE))
    return limit(min((octaves for octaves in near if octaves >= 0.0), key=error))


def _min_divergence(histogram: Histogram) -> float:
    """Return the T that minimizes the divergence between the values and their 128 levels; of ties, the largest T.

    Source: Migacz, 8-bit inference with TensorRT (GTC 2017): 2048 equal bins, of which the first i = 128, 129, ...
    are kept. P is these i bins with the clipped mass added to the last. Q is the same bins without it, merged into
    128 levels, with the mass of each level spread evenly over its non-empty bins.
    Here the 2048 bins end at the power of two above the maximum, and these details are fixed:

    - Values below 2^-20 of the maximum are ignored: 0 is exact for any T. (NVIDIA's pytorch-quantization copies the
      count of the second bin to the first; onnxruntime counts zeros, and clips ReLU outputs too low.)
    - No smoothing: the clipped mass is added to the last non-empty of the i bins, so Q > 0 wherever P > 0.
    - T is at least 1/16 of that power of two. A single outlier costs almost nothing in this measure, so without a
      lower bound a channel of outliers could be clipped away.
    """
    width = 2.0 ** math.frexp(histogram.maximum)[1] / _EQUAL_BINS
    counts = histogram.counts.astype(np.float64)
    counts[0] = 0.0
    # Each bin lies inside one equal bin: those of the highest octave have the same width, the others are narrower.
    equal = np.bincount((histogram.edges[:-1] / width).astype(np.intp), weights=counts).astype(np.float64)
    divergences = _divergences(equal)
    best = len(equal) - int(np.argmin(divergences[::-1]))
    return min(histogram.maximum, best * width)


def _divergences(bins: F64) -> F64:
    """Return KL(P || Q) for each i from 128 to the number of bins; the last bin is not empty.

    For a level with c values in n non-empty bins, Q = c / (n inside), where ``inside`` is the sum of the first i bins.
    So KL = [sum_b h log h - sum_levels c log(c / n)] / total + log(inside / total), except for the clipped mass. The
    first sum is cumulative, and c and n of a level are differences of cumulative sums.
    """

    def running(values: F64) -> F64:
        return np.concatenate([[0.0], np.cumsum(values)])

    def self_information(values: F64) -> F64:
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
    found: F64 = (informed[kept] - spread + tail) / total + np.log(np.maximum(inside, 1.0) / total)
    found[last < 0] = np.inf  # all kept bins are empty
    return found
