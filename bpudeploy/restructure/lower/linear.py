"""Linear layers: a 1x1 convolution over the axis that is contracted, all other axes are its pixels.

y = W x + b for each token becomes Conv(x; W[:, :, None, None], b). If the channels lie in another order
in memory than in the original, the weights are put in that order; the tensor stays where it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import Dims, flat, new_axis, size, sizes
from bpudeploy.restructure.lower.affine import absorbed
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.layouts import convolution_layout
from bpudeploy.restructure.value import Maker, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gemm(ctx: Lowering) -> None:
    """Gemm: alpha · A · B + beta · C with a constant B."""
    attributes = ctx.at.attributes
    value, weight, bias = ctx.value(0), ctx.constant(1), ctx.constant(2)
    assert weight is not None
    if attributes.get("transA"):
        value = replace(value, axes=value.axes[::-1])
    weight = weight if attributes.get("transB") else weight.T
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    if alpha != 1.0:
        weight = weight * alpha
    line = None if bias is None else np.broadcast_to(bias.reshape(-1) * beta, len(weight)).astype(np.float64)
    ctx.bind(contract(ctx, value, len(value.axes) - 1, weight, line))


def contract(
    ctx: Lowering, value: Value, axis: int, weight: NDArray[Any], bias: NDArray[np.float64] | None = None
) -> Value:
    """Return the value whose ``axis`` is ``weight`` (out, in) times that of ``value``, plus ``bias`` (out,)."""
    channels = value.axes[axis]
    if any(a not in value.stored for a in channels):
        value = ctx.fill(value)
    if axis == len(value.axes) - 1:
        value = _by_windows(ctx, value)
    value = ctx.relayout(value, convolution_layout(value.dims, channels))
    index = {a: i for i, a in enumerate(channels)}
    order = value.dims[1]
    fine = weight.reshape([len(weight), *(a.size for a in channels)])
    kernel = fine.transpose([0, *(1 + index[a] for a in order)]).reshape(len(weight), size(channels), 1, 1)
    value, kernel, bias = absorbed(ctx, value, order, kernel, bias)
    if value.pending is not None or value.dims[1] != order:
        raise AssertionError("absorbed settles what it cannot take")
    out = new_axis(len(weight))
    dims: Dims = (value.dims[0], out, value.dims[2], value.dims[3])
    maker = Maker(value.name, kernel.astype(np.float32, copy=False), None if bias is None else bias.astype(np.float32))
    name = ctx.convolve(maker, sizes(dims))
    axes = tuple(out if i == axis else a for i, a in enumerate(value.axes))
    return Value(name, dims, axes, maker)


def _by_windows(ctx: Lowering, value: Value) -> Value:
    """Return windows of tokens, (windows, T, C) or (windows, H, W, C), with the windows as physical axis 0.

    They are moved once here, and not once for each of q, k and v behind.
    """
    windows, *places, channels = value.axes
    inside = tuple(a for a in flat(value.dims) if a in channels)
    if len(places) not in (1, 2) or not windows or set(windows) & set(value.dims[0]):
        return value
    return ctx.relayout(value, (windows, inside, places[0] if len(places) == 2 else (), places[-1]))
