"""Lower ScatterND of a block at constant indices: x · mask + zero-padded updates."""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.elementwise import binary_of
from bpudeploy.restructure.lower.spatial import padded


def scatter(ctx: Lowering) -> None:
    """ScatterND as exported for ``x[..., a:b, c:d] = updates``."""
    value, index, updates = ctx.value(0), ctx.constant(1), ctx.value(2)
    rank = len(value.axes)
    indices = index.reshape(-1, index.shape[-1])
    low, high = indices.min(axis=0), indices.max(axis=0) + 1
    sides = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    block = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(sides))
    plain = ctx.node.attributes.get("reduction", "none") == "none"
    if not plain or not np.array_equal(block, indices):
        raise ctx.unsupported("its indices are not a contiguous block")
    mask = np.ones([*value.shape[: len(low)], *[1] * (rank - len(low))])
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 0.0
    rest = [0] * (rank - len(low))
    after = [n - int(b) for n, b in zip(value.shape, high, strict=False)]
    around = padded(ctx, updates, [*(int(a) for a in low), *rest, *after, *rest])
    ctx.bind(binary_of(ctx, "Add", binary_of(ctx, "Mul", value, mask), around))
