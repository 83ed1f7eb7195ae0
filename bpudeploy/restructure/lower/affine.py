"""Fold x · scale + shift into the convolution before it, or defer it to the convolution after it.

Before: (W x + b) · s + t = (diag(s) W) x + (s · b + t). After: W (x · γ + β) + b = (W diag(γ)) x + (b + W β).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.restructure.atoms import Atoms, size
from bpudeploy.restructure.lower.context import Lowering, broadcastable
from bpudeploy.restructure.value import Affine, Convolution, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]


def apply_affine(ctx: Lowering, value: Value, atoms: Atoms, scale: F64, shift: F64) -> Value:
    """Return ``value`` · scale + shift, both row-major over ``atoms``, which are all stored (or empty)."""
    if value.producer is not None and value.pending is None and set(atoms) <= set(value.dims[1]):
        channels = value.dims[1]
        scale, shift = (_over(x, atoms, channels) for x in (scale, shift))
        conv = _scaled(value.producer, scale, shift)
        return replace(value, name=ctx.convolve(conv, ctx.graph.shape(value.name)), producer=conv)
    pending = value.pending
    if pending is not None and pending.atoms and atoms and pending.atoms != atoms:
        value, pending = ctx.apply_pending(value), None
    if pending is not None:
        scale, shift = pending.scale * scale, pending.shift * scale + shift
        atoms = pending.atoms or atoms
    scale, shift = (np.broadcast_to(x.reshape(-1), size(atoms)).astype(np.float64) for x in (scale, shift))
    return replace(value, producer=None, pending=Affine(atoms, scale, shift))


def _over(array: F64, atoms: Atoms, channels: Atoms) -> F64:
    """Return ``array`` over ``atoms`` as a vector over ``channels``."""
    vector = broadcastable(array, atoms, ((), channels, (), ())).reshape(-1)
    return np.broadcast_to(vector, size(channels)).astype(np.float64)


def _scaled(conv: Convolution, scale: F64, shift: F64) -> Convolution:
    """Return the convolution that computes ``conv`` · scale + shift, per output channel."""
    weight = conv.weight
    if (scale != 1).any():
        weight = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    return replace(conv, weight=weight, bias=(conv.bias.astype(np.float64) * scale + shift).astype(np.float32))


def absorb_pending(
    ctx: Lowering, value: Value, channels: Atoms, weight: F64 | NDArray[np.float32], bias: F64
) -> tuple[Value, NDArray[np.generic], F64]:
    """Return ``value`` without its pending affine, folded into ``weight`` (out, in, kh, kw) and ``bias``.

    If it is not per input channel, it is applied to ``value`` instead. The caller ensures that a shift is not
    followed by padding.
    """
    pending = value.pending
    if pending is None:
        return value, weight, bias
    if not set(pending.atoms) <= set(channels):
        return ctx.apply_pending(value), weight, bias
    scale, shift = (_over(x, pending.atoms, channels) for x in (pending.scale, pending.shift))
    if shift.any():
        bias = bias + np.einsum("oihw,i->o", weight, shift)
    if (scale != 1).any():
        weight = weight * scale.reshape(1, -1, 1, 1)
    return replace(value, pending=None), weight, bias
