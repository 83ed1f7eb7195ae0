"""Lower Reshape, Transpose and the like: new logical axes over the same physical tensor, without a node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bpudeploy.restructure.atoms import Atom, flat, new_axis, regroup, size, substitute
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.value import Value


def same(ctx: Lowering) -> None:
    """Identity, Dropout at inference, a Cast between floats."""
    ctx.bind(ctx.value())


def reshape(ctx: Lowering) -> None:
    """Reshape: regroup the axes' atoms; if their factors do not match, move to row-major order first."""
    value = ctx.value()
    shape = [value.shape[i] if n == 0 else n for i, n in enumerate(ctx.numbers("shape", 1))]
    ctx.bind(reshaped(ctx, value, shape))


def reshaped(ctx: Lowering, value: Value, shape: Sequence[int]) -> Value:
    """Return ``value`` reshaped; one -1 in ``shape`` is inferred."""
    total = math.prod(value.shape)
    if -1 in shape:
        known = math.prod(n for n in shape if n != -1)
        shape = [total // known if n == -1 else n for n in shape]
    if math.prod(shape) != total:
        raise ctx.unsupported(f"{value.shape} and {list(shape)} differ in the number of elements")
    found = regroup(flat(value.axes), shape)
    if found is None:
        value = ctx.merge_adjacent(ctx.apply_pending(value))
        found = regroup(flat(value.axes), shape)
    if found is None:
        return _row_major(ctx, value, shape)
    axes, splits = found
    return replace(value.substituted(splits), axes=axes)


def _row_major(ctx: Lowering, value: Value, shape: Sequence[int]) -> Value:
    value = ctx.materialize(value)
    order = flat(value.axes)
    value = ctx.relayout(value, ((), (), (), order))
    whole = Atom(size(order))
    found = regroup((whole,), shape)
    assert found is not None
    axes, splits = found
    return replace(value, dims=((), (), (), substitute((whole,), splits)), axes=axes)


def flatten(ctx: Lowering) -> None:
    """Flatten to two axes."""
    value, axis = ctx.value(), int(ctx.node.attributes.get("axis", 1))
    axis %= len(value.axes) + (axis == len(value.axes))
    ctx.bind(replace(value, axes=(flat(value.axes[:axis]), flat(value.axes[axis:]))))


def transpose(ctx: Lowering) -> None:
    """Transpose: permute the axes."""
    value = ctx.value()
    perm = ctx.node.attributes.get("perm") or range(len(value.axes))[::-1]
    ctx.bind(replace(value, axes=tuple(value.axes[p] for p in perm)))


def squeeze(ctx: Lowering) -> None:
    """Squeeze: remove axes of size 1."""
    value = ctx.value()
    rank = len(value.axes)
    removed = {n % rank for n in ctx.numbers("axes", 1)} or {i for i, n in enumerate(value.shape) if n == 1}
    ctx.bind(replace(value, axes=tuple(axis for i, axis in enumerate(value.axes) if i not in removed)))


def unsqueeze(ctx: Lowering) -> None:
    """Unsqueeze: add axes of size 1."""
    value, wanted = ctx.value(), ctx.numbers("axes", 1)
    rank = len(value.axes) + len(wanted)
    new, old = {n % rank for n in wanted}, iter(value.axes)
    ctx.bind(replace(value, axes=tuple(() if i in new else next(old) for i in range(rank))))


def expand(ctx: Lowering) -> None:
    """Expand: axes of size 1 become broadcast axes, expanded only if an operator requires it."""
    value, shape = ctx.value(), ctx.numbers("shape", 1)
    rank = max(len(shape), len(value.axes))
    axes = [()] * (rank - len(value.axes)) + list(value.axes)
    wanted = [1] * (rank - len(shape)) + list(shape)
    expanded = tuple(new_axis(n) if not axis and n > 1 else axis for axis, n in zip(axes, wanted, strict=True))
    ctx.bind(replace(value, axes=expanded))


def tile(ctx: Lowering) -> None:
    """Tile: each repeat is a broadcast atom outside the repeated axis."""
    value, repeats = ctx.value(), ctx.numbers("repeats", 1)
    ctx.bind(replace(value, axes=tuple(new_axis(n) + axis for n, axis in zip(repeats, value.axes, strict=True))))


def depth_to_space(ctx: Lowering) -> None:
    """DepthToSpace of blocks b: (N, b·b·C, H, W) or (N, C·b·b, H, W) to (N, C, H·b, W·b)."""
    value, b = ctx.value(), int(ctx.node.attributes["blocksize"])
    n, c, h, w = value.shape
    if ctx.node.attributes.get("mode", "DCR") == "DCR":
        value, order = reshaped(ctx, value, [n, b, b, c // (b * b), h, w]), (0, 3, 4, 1, 5, 2)
    else:
        value, order = reshaped(ctx, value, [n, c // (b * b), b, b, h, w]), (0, 1, 4, 2, 5, 3)
    permuted = replace(value, axes=tuple(value.axes[p] for p in order))
    ctx.bind(reshaped(ctx, permuted, [n, c // (b * b), h * b, w * b]))


def space_to_depth(ctx: Lowering) -> None:
    """SpaceToDepth of blocks b: (N, C, H·b, W·b) to (N, b·b·C, H, W)."""
    value, b = ctx.value(), int(ctx.node.attributes["blocksize"])
    n, c, h, w = value.shape
    value = reshaped(ctx, value, [n, c, h // b, b, w // b, b])
    permuted = replace(value, axes=tuple(value.axes[p] for p in (0, 3, 5, 1, 2, 4)))
    ctx.bind(reshaped(ctx, permuted, [n, c * b * b, h // b, w // b]))
