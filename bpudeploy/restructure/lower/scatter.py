"""ScatterND of a block at constant places: x · mask + the updates padded with zeros."""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.elementwise import binary_of, with_constant
from bpudeploy.restructure.lower.spatial import padded


def scatter(ctx: Lowering) -> None:
    """Assign a block, as ``x[..., a:b, c:d] = updates`` is exported."""
    value, index, updates = ctx.value(0), ctx.constant(1), ctx.value(2)
    assert index is not None
    rank = len(value.axes)
    places = index.reshape(-1, index.shape[-1])
    low, high = places.min(axis=0), places.max(axis=0) + 1
    sides = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    block = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(sides))
    plain = ctx.at.attributes.get("reduction", b"none") in (b"none", "none")
    if not plain or not np.array_equal(block, places):
        raise ctx.refuse("it writes to places that are no block")
    mask = np.ones([*value.shape[: len(low)], *[1] * (rank - len(low))])
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 0.0
    rest = [0] * (rank - len(low))
    after = [n - int(b) for n, b in zip(value.shape, high, strict=False)]
    around = padded(ctx, updates, [*(int(a) for a in low), *rest, *after, *rest])
    ctx.bind(binary_of(ctx, "Add", with_constant(ctx, "Mul", value, mask, False), around))
