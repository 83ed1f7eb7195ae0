"""A BPU's integer arithmetic in numpy: exact sums, scales as fixed-point ratios, rounding, saturation.

Sources: the multiplier of a ratio of scales, a 32-bit mantissa and a right shift, is that of gemmlowp and of the
TensorFlow Lite quantization specification (Jacob et al., CVPR 2018, equations 5 and 6). They round twice in some
builds (a "doubling high multiply", then the shift); here the 64-bit product is rounded once. How a vendor's hardware
rounds is not published: ``Rounding`` is data of the target, to be set from what a board answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpudeploy.quantize.patches import Window
from bpudeploy.spec.precision import Rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]
    Integers = NDArray[np.signedinteger[Any]]
    Ratios = NDArray[np.floating[Any]] | np.floating[Any]

SUM_LOW, SUM_HIGH = -(2**31), 2**31 - 1
"""What an accumulator holds."""
_MANTISSA_BITS = 31
_LARGEST_SHIFT = 63


def conv_sums(x: Integers, weight: Integers, bias: Integers | None, window: Window) -> I64:
    """Return the exact sums of a 2-D convolution of integers (N, C, H, W) with (out, C / group, kh, kw).

    One product of matrices in float64 for each row of the kernel: integers below 2^53, so no sum is rounded.
    """
    import numpy as np

    top, left, bottom, right = window.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
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


def matmul_sums(a: Integers, b: Integers) -> I64:
    """Return the exact sums of a (batched) product of integer matrices; exact for 2^23 terms of int16 each."""
    import numpy as np

    sums: I64 = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    return sums


def fixed_point(ratios: Ratios) -> tuple[I64, I64]:
    """Return ratios as mantissas in [2^30, 2^31) and right shifts: ratio = mantissa / 2^shift, to 2^-31 of it.

    A shift that 64 bits have no room for is cut: below 0 everything saturates and above 63 everything is 0 anyway.
    """
    import numpy as np

    part, exponent = np.frexp(np.asarray(ratios, dtype=np.float64))
    mantissa = np.rint(part * 2.0**_MANTISSA_BITS).astype(np.int64)
    full = mantissa == 1 << _MANTISSA_BITS
    mantissa = np.where(full, mantissa >> 1, mantissa)
    shift = _MANTISSA_BITS - exponent.astype(np.int64) - full
    return mantissa, np.clip(shift, 0, _LARGEST_SHIFT)


def requantize(sums: I64, ratios: Ratios, rounding: Rounding, dtype: np.dtype[Any]) -> Integers:
    """Return int32 ``sums`` times ``ratios`` (which broadcast), rounded and saturated to ``dtype``."""
    import numpy as np

    mantissa, shift = fixed_point(ratios)
    product = sums * mantissa  # |sums| <= 2^31 and the mantissa < 2^31: below 2^62, with room for the half
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    rounded = (product + half) >> shift
    tie = (shift > 0) & (product + half == rounded << np.minimum(shift, _LARGEST_SHIFT - 1))
    back = (rounded & 1 == 1) if rounding is Rounding.HALF_EVEN else product < 0
    return _saturate(rounded - (tie & back), dtype)


def quantize(values: F32, scale: F32 | np.float32, rounding: Rounding, dtype: np.dtype[Any]) -> Integers:
    """Return ``values`` / ``scale``, rounded and saturated: QuantizeLinear with the rounding asked for.

    The division is in float32, as onnxruntime's, so that half to even gives its integers, each. NaN has none.
    """
    import numpy as np

    steps = values / scale
    if rounding is Rounding.HALF_EVEN:
        return _saturate(np.rint(steps), dtype)
    steps = steps.clip(SUM_LOW, SUM_HIGH)
    whole = np.trunc(steps)  # not trunc(x + 0.5): for the float32 just below 0.5 that sum is 1
    return _saturate(whole + np.copysign(np.abs(steps - whole) >= 0.5, steps), dtype)


def _saturate(values: NDArray[Any], dtype: np.dtype[Any]) -> Integers:
    import numpy as np

    limits = np.iinfo(dtype)
    made: Integers = np.clip(values, limits.min, limits.max).astype(dtype)
    return made
