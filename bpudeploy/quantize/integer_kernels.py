"""Integer arithmetic of a BPU in numpy: exact sums, fixed-point scale ratios, rounding, saturation.

The ratio of two scales is a 32-bit mantissa and a right shift, as in gemmlowp and the TensorFlow Lite quantization
specification (Jacob et al., CVPR 2018, equations 5 and 6). Some of their builds round twice (a "doubling high
multiply", then the shift); here the 64-bit product is rounded once. Vendors do not publish how their hardware rounds,
so ``Rounding`` is a property of the target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpudeploy.quantize.arrays import F32, I64, Signed
from bpudeploy.quantize.window import Window
from bpudeploy.spec.precision import Rounding

Ratios = NDArray[np.floating[Any]] | np.floating[Any]

SUM_LOW, SUM_HIGH = -(2**31), 2**31 - 1
"""Range of an accumulator."""
_MANTISSA_BITS = 31
_LARGEST_SHIFT = 63


def conv_sums(x: Signed, weight: Signed, bias: Signed | None, window: Window) -> I64:
    """Return the exact sums of a 2-D convolution of integers (N, C, H, W) with weights (out, C / group, kh, kw).

    Computes one float64 matrix product per kernel row. All integers are below 2^53, so no sum is rounded.
    """
    padded = window.pad(x)
    out, depth, *kernel = weight.shape
    group = x.shape[1] // depth
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, window.dilations, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    (down, across), (dy, dx) = window.strides, window.dilations
    views = views[:, :, ::down, ::across, ::dy, ::dx]
    count, _, height, width = views.shape[:4]
    sums = np.zeros((count, group, out // group, height * width))
    for row in range(kernel[0]):
        taken = views[..., row, :].transpose(0, 1, 4, 2, 3).astype(np.float64, order="C")
        columns = taken.reshape(count, group, depth * kernel[1], height * width)
        sums += weight[:, :, row, :].astype(np.float64).reshape(group, out // group, -1) @ columns
    exact = sums.reshape(count, out, height, width).astype(np.int64)
    return exact if bias is None else exact + bias.astype(np.int64).reshape(1, -1, 1, 1)


def matmul_sums(a: Signed, b: Signed) -> I64:
    """Return the exact sums of a (batched) integer matrix product, for up to 2^23 int16 terms per sum."""
    sums: I64 = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    return sums


def fixed_point(ratios: Ratios) -> tuple[I64, I64]:
    """Return mantissas in [2^30, 2^31) and right shifts: ratio = mantissa / 2^shift, to a relative 2^-31.

    Shifts are clamped to 0..63: below 0 everything saturates, and above 63 everything is 0.
    """
    part, exponent = np.frexp(np.asarray(ratios, dtype=np.float64))
    mantissa = np.rint(part * 2.0**_MANTISSA_BITS).astype(np.int64)
    full = mantissa == 1 << _MANTISSA_BITS
    mantissa = np.where(full, mantissa >> 1, mantissa)
    shift = _MANTISSA_BITS - exponent.astype(np.int64) - full
    return mantissa, np.clip(shift, 0, _LARGEST_SHIFT)


def requantize(sums: I64, ratios: Ratios, rounding: Rounding, dtype: np.dtype[Any]) -> Signed:
    """Return int32 ``sums`` times ``ratios`` (broadcast), rounded and saturated to ``dtype``."""
    mantissa, shift = fixed_point(ratios)
    product = sums * mantissa  # |sums| <= 2^31 and mantissa < 2^31: below 2^62, so adding the half cannot overflow
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    rounded = (product + half) >> shift
    tie = (shift > 0) & (product + half == rounded << np.minimum(shift, _LARGEST_SHIFT - 1))
    back = (rounded & 1 == 1) if rounding is Rounding.HALF_EVEN else product < 0
    return _saturate(rounded - (tie & back), dtype)


def quantize(values: F32, scale: F32 | np.float32, rounding: Rounding, dtype: np.dtype[Any]) -> Signed:
    """Return ``values`` / ``scale``, rounded and saturated, as QuantizeLinear does; undefined for NaN.

    Divides in float32 like onnxruntime, so that half-to-even gives identical integers.
    """
    steps = values / scale
    if rounding is Rounding.HALF_EVEN:
        return _saturate(np.rint(steps), dtype)
    steps = steps.clip(SUM_LOW, SUM_HIGH)
    whole = np.trunc(steps)  # not trunc(x + 0.5): for the float32 just below 0.5 that sum is 1
    return _saturate(whole + np.copysign(np.abs(steps - whole) >= 0.5, steps), dtype)


def _saturate(values: NDArray[Any], dtype: np.dtype[Any]) -> Signed:
    limits = np.iinfo(dtype)
    saturated: Signed = np.clip(values, limits.min, limits.max).astype(dtype)
    return saturated
