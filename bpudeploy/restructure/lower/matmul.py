"""Lower MatMul: a linear layer if one side is a constant, else a 4-D MatMul with heads and windows as batch axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import Atoms, Dims, flat, new_axis, size, sizes
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.layouts import restricted
from bpudeploy.restructure.lower.linear import contract
from bpudeploy.restructure.moves import transposes
from bpudeploy.restructure.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEEPS_LAST_AXIS = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Reshape", "Identity", "Clip", "Cast"})


def matmul(ctx: Lowering) -> None:
    """MatMul with NumPy's rules for batch axes."""
    left, right = ctx.input(0), ctx.input(1)
    if isinstance(left, Value):
        ctx.bind(product(ctx, left, right) if isinstance(right, Value) else _with_constant(ctx, left, right))
    else:
        assert isinstance(right, Value)
        transposed = _with_constant(ctx, _transposed(right), np.swapaxes(left, -1, -2))
        ctx.bind(_transposed(transposed))


def _transposed(value: Value) -> Value:
    *batch, rows, columns = value.axes
    return replace(value, axes=(*batch, columns, rows))


def _with_constant(ctx: Lowering, value: Value, weight: NDArray[Any]) -> Value:
    """Return ``value`` @ ``weight``; a constant with batch axes remains an input of a MatMul."""
    squeezed = weight.reshape(weight.shape[-2:]) if all(n == 1 for n in weight.shape[:-2]) else weight
    if squeezed.ndim == 2:
        value = value.with_rank(max(weight.ndim, len(value.axes)))
        return contract(ctx, value, len(value.axes) - 1, squeezed.T)
    return product(ctx, value, as_value(ctx, weight))


def as_value(ctx: Lowering, array: NDArray[Any]) -> Value:
    """Return a constant as a Value; the rule ``moves`` folds its layout changes."""
    axes = tuple(new_axis(n) for n in array.shape)
    shape = [n for n in array.shape if n > 1]
    if len(shape) > 4:
        raise ctx.unsupported(f"its constant has the shape {array.shape}")
    dims = ((),) * (4 - len(shape)) + tuple(axis for axis in axes if axis)
    return Value(ctx.store(array.reshape(sizes(dims)), "weight"), dims, axes)


def product(ctx: Lowering, left: Value, right: Value) -> Value:
    """Return ``left`` (..., M, K) @ ``right`` (..., K, N) as one 4-D MatMul, (g0, g1, M, K) x (g0, g1, K, N).

    The transposed product right' x left' is used if it moves fewer values and no softmax over the last axis follows.
    """
    left, right = ctx.apply_pending(left), ctx.apply_pending(right)
    rank = max(len(left.axes), len(right.axes))
    left, right = (replace(v.with_rank(rank), producer=None) for v in (left, right))
    left, right = _contracted(ctx, left, right)
    batch = tuple(a or b for a, b in zip(left.axes[:-2], right.axes[:-2], strict=True))
    rows, inner, columns = left.axes[-2], left.axes[-1], right.axes[-1]
    groups = _batch_groups(flat(batch), left, right)
    if groups is None:
        left, right = _widened(ctx, left, batch), _widened(ctx, right, batch)
        groups = _batch_groups(flat(batch), left, right)
        assert groups is not None
    g0, g1 = groups
    rows, inner, columns = _as_stored(left, rows), _as_stored(right, inner), _as_stored(right, columns)
    straight = ((g0, g1, rows, inner), (g0, g1, inner, columns))
    transposed = ((g0, g1, inner, rows), (g0, g1, columns, inner))
    cost, cost_transposed = (
        sum(_moved(v, d) for v, d in zip((left, right), form, strict=True)) for form in (straight, transposed)
    )
    swap = cost_transposed < cost and not _softmax_follows(ctx)
    left, right = (
        ctx.relayout(v, restricted(d, v)) for v, d in zip((left, right), transposed if swap else straight, strict=True)
    )
    dims: Dims = (g0, g1, columns, rows) if swap else (g0, g1, rows, columns)
    inputs = [right.name, left.name] if swap else [left.name, right.name]
    name = ctx.emit("MatMul", inputs, sizes(dims))
    return Value(name, dims, (*batch, left.axes[-2], right.axes[-1]))


def _contracted(ctx: Lowering, left: Value, right: Value) -> tuple[Value, Value]:
    """Return both over common atoms: batch axes, and the contracted axis."""
    left, transposed = ctx.align([left, _transposed(right)], skip=(len(left.axes) - 2,))
    right = _transposed(transposed)
    needed = {a for v in (left, right) for axis in v.axes[-2:] for a in axis}
    left, right = (ctx.materialize(v) if needed & (set(flat(v.axes)) - v.stored) else v for v in (left, right))
    return left, right


def _batch_groups(batch: Atoms, left: Value, right: Value) -> tuple[Atoms, Atoms] | None:
    """Split the batch axes into two groups, each of which both values store entirely or not at all."""
    ordered = [
        *(a for a in flat(left.dims) if a in batch),
        *(a for a in flat(right.dims) if a in batch and a not in left.stored),
    ]
    if any(a not in ordered for a in batch):
        return None
    natural = sum(1 for a in ordered if a in left.dims[0] or a in right.dims[0])
    for cut in sorted(range(len(ordered) + 1), key=lambda c: abs(c - natural)):
        groups = tuple(ordered[:cut]), tuple(ordered[cut:])
        if all(len({a in v.stored for a in g}) <= 1 for g in groups for v in (left, right)):
            return groups
    return None


def _widened(ctx: Lowering, value: Value, batch: Sequence[Atoms]) -> Value:
    """Return ``value`` with all batch axes expanded."""
    return ctx.materialize(replace(value, axes=(*batch, *value.axes[-2:])))


def _as_stored(value: Value, atoms: Atoms) -> Atoms:
    """Return ``atoms`` in the order in which ``value`` stores them."""
    return tuple(a for a in flat(value.dims) if a in atoms)


def _moved(value: Value, dims: Dims) -> int:
    return size(value.stored) if transposes(value.dims, restricted(dims, value)) else 0


def _softmax_follows(ctx: Lowering) -> bool:
    """Return whether a softmax over the last axis of the product follows, after operators that keep that axis."""
    tensor = ctx.node.outputs[0]
    for _ in range(8):
        readers = ctx.network.readers.get(tensor, ())
        if len(readers) != 1:
            return any(r.op == "Softmax" for r in readers)
        (reader,) = readers
        if reader.op == "Softmax":
            return int(reader.attributes.get("axis", -1)) != -2
        if reader.op not in _KEEPS_LAST_AXIS:
            return False
        tensor = reader.outputs[0]
    return False
