"""x · scale + shift by a constant: into the convolution that makes x, or kept until one reads it.

W x + b, then · s + t, is (diag(s) W) x + (s · b + t). With the norm before a convolution it is the other
side: W (x · γ + β) + b = (W diag(γ)) x + (b + W β).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.restructure.atoms import Atoms, size
from bpudeploy.restructure.lower.context import Lowering, spread
from bpudeploy.restructure.value import Affine, Maker, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]


def apply_affine(ctx: Lowering, value: Value, atoms: Atoms, scale: F64, shift: F64) -> Value:
    """Return ``value`` · scale + shift; both are row-major over ``atoms``, all of them stored (or no atoms)."""
    if value.maker is not None and value.pending is None and set(atoms) <= set(value.dims[1]):
        channels = value.dims[1]
        wide = [_over(x, atoms, channels) for x in (scale, shift)]
        return remade(ctx, value, changed(value.maker, *wide))
    pending = value.pending
    if pending is not None and pending.atoms and atoms and pending.atoms != atoms:
        value, pending = ctx.settle(value), None
    if pending is not None:
        scale, shift = pending.scale * scale, pending.shift * scale + shift
        atoms = pending.atoms or atoms
    scale, shift = (np.broadcast_to(x.reshape(-1), size(atoms)).astype(np.float64) for x in (scale, shift))
    return replace(value, maker=None, pending=Affine(atoms, scale, shift))


def _over(array: F64, atoms: Atoms, channels: Atoms) -> F64:
    """Return ``array`` over ``atoms`` as a vector over ``channels``."""
    spread_out = spread(array, atoms, ((), channels, (), ())).reshape(-1)
    return np.broadcast_to(spread_out, size(channels)).astype(np.float64)


def changed(maker: Maker, scale: F64, shift: F64) -> Maker:
    """Return the convolution whose output is that of ``maker`` · scale + shift, by channel."""
    bias = np.zeros(len(maker.weight)) if maker.bias is None else maker.bias.astype(np.float64)
    weight = maker.weight
    if (scale != 1).any():
        weight = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    return replace(maker, weight=weight, bias=(bias * scale + shift).astype(np.float32))


def remade(ctx: Lowering, value: Value, maker: Maker) -> Value:
    """Return ``value`` as made by another convolution of the same output shape."""
    name = ctx.convolve(maker, ctx.graph.shape(value.name))
    return replace(value, name=name, maker=maker)


def absorbed(
    ctx: Lowering, value: Value, channels: Atoms, weight: F64 | NDArray[np.float32], bias: F64 | None
) -> tuple[Value, NDArray[np.generic], F64 | None]:
    """Return ``value`` without what is pending, and ``weight`` (out, in, kh, kw) and ``bias`` that take it up.

    Settles it instead where it does not run over the input ``channels``. The caller sees to it that no
    padding stands between (a shift is not what the padding is).
    """
    pending = value.pending
    if pending is None:
        return value, weight, bias
    if not set(pending.atoms) <= set(channels):
        return ctx.settle(value), weight, bias
    scale, shift = (_over(x, pending.atoms, channels) for x in (pending.scale, pending.shift))
    if shift.any():
        bias = (0.0 if bias is None else bias) + np.einsum("oihw,i->o", weight, shift)
    if (scale != 1).any():
        weight = weight * scale.reshape(1, -1, 1, 1)
    return replace(value, pending=None), weight, bias
