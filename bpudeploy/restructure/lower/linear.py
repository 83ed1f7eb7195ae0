"""Lower linear layers to 1x1 convolutions over the contracted axis; all other axes are pixels.

y = W x + b per token becomes Conv(x; W[:, :, None, None], b). If the channels have another order in memory, the
weights are permuted, not the tensor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import flat, new_axis, size, sizes, with_axis
from bpudeploy.restructure.lower.affine import absorb_pending
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.layouts import convolution_layout
from bpudeploy.restructure.value import Convolution, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gemm(ctx: Lowering) -> None:
    """Gemm: alpha · A · B + beta · C with a constant B."""
    attributes = ctx.node.attributes
    value, weight, bias = ctx.value(0), ctx.constant(1), ctx.optional(2)
    if attributes.get("transA"):
        value = replace(value, axes=value.axes[::-1])
    weight = weight if attributes.get("transB") else weight.T
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    if alpha != 1.0:
        weight = weight * alpha
    vector = 0.0 if bias is None else bias.reshape(-1) * beta
    ctx.bind(contract(ctx, value, len(value.axes) - 1, weight, vector))


def contract(ctx: Lowering, value: Value, axis: int, weight: NDArray[Any], bias: NDArray[Any] | float = 0.0) -> Value:
    """Return ``weight`` (out, in) times ``value`` along ``axis``, plus ``bias``, broadcast to (out,)."""
    channels = value.axes[axis]
    if any(a not in value.stored for a in channels):
        value = ctx.materialize(value)
    if axis == len(value.axes) - 1:
        value = _by_windows(ctx, value)
    value = ctx.relayout(value, convolution_layout(value.dims, channels))
    index = {a: i for i, a in enumerate(channels)}
    order = value.dims[1]
    fine = weight.reshape([len(weight), *(a.size for a in channels)])
    kernel = fine.transpose([0, *(1 + index[a] for a in order)]).reshape(len(weight), size(channels), 1, 1)
    vector = np.broadcast_to(bias, len(weight)).astype(np.float64)
    value, kernel, vector = absorb_pending(ctx, value, order, kernel, vector)
    assert value.pending is None and value.dims[1] == order
    out = new_axis(len(weight))
    dims = with_axis(value.dims, 1, out)
    conv = Convolution(value.name, kernel.astype(np.float32, copy=False), vector.astype(np.float32))
    return Value(ctx.convolve(conv, sizes(dims)), dims, with_axis(value.axes, axis, out), conv)


def _by_windows(ctx: Lowering, value: Value) -> Value:
    """Return windows of tokens, (windows, T, C) or (windows, H, W, C), with the windows as physical axis 0.

    Otherwise q, k and v would each be moved separately.
    """
    windows, *tokens, channels = value.axes
    inside = tuple(a for a in flat(value.dims) if a in channels)
    if len(tokens) not in (1, 2) or not windows or set(windows) & set(value.dims[0]):
        return value
    return ctx.relayout(value, (windows, inside, tokens[0] if len(tokens) == 2 else (), tokens[-1]))
