"""Einsum of one or two inputs, as a view, a MatMul or a linear layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bpudeploy.restructure.atoms import flat, size
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.linear import contract
from bpudeploy.restructure.lower.matmul import as_value, product
from bpudeploy.restructure.lower.reduce import mean
from bpudeploy.restructure.lower.views import reshaped
from bpudeploy.restructure.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray


def einsum(ctx: Lowering) -> None:
    """Einsum; letters in both inputs and in the output are batch axes, letters only in the inputs are summed."""
    equation = ctx.at.attributes["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    given, made = text.split("->") if "->" in text else (text, "")
    terms = given.split(",")
    if not made or "." in text or any(len(set(t)) < len(t) for t in (*terms, made)) or len(terms) > 2:
        raise ctx.refuse(f"the equation {text}")
    if len(terms) == 1:
        return ctx.bind(_one(ctx, ctx.value(), terms[0], made))
    left, right = ctx.get(0), ctx.get(1)
    first, second = terms
    if not isinstance(left, Value):
        left, right, first, second = right, left, second, first
    assert isinstance(left, Value) and right is not None
    if isinstance(right, Value):
        return ctx.bind(_two(ctx, left, right, first, second, made))
    ctx.bind(_linear(ctx, left, right, first, second, made))


def _one(ctx: Lowering, value: Value, letters: str, made: str) -> Value:
    gone = [value.axes[i] for i, letter in enumerate(letters) if letter not in made]
    if gone:
        value = mean(ctx, value, gone, float(size(flat(gone))))
    return replace(value, axes=tuple(value.axes[letters.index(letter)] for letter in made))


def _two(ctx: Lowering, left: Value, right: Value, first: str, second: str, made: str) -> Value:
    batch = [x for x in first if x in second and x in made]
    inner = [x for x in first if x in second and x not in made]
    rows = [x for x in first if x not in second and x in made]
    columns = [x for x in second if x not in first and x in made]
    if {*batch, *inner, *rows} != {*first} or {*batch, *inner, *columns} != {*second}:
        raise ctx.refuse(f"the equation {first},{second}->{made} sums over a letter of one input alone")
    left_axes, right_axes = dict(zip(first, left.axes, strict=True)), dict(zip(second, right.axes, strict=True))
    a = replace(
        left, axes=(*(left_axes[x] for x in batch), flat(left_axes[x] for x in rows), flat(left_axes[x] for x in inner))
    )
    b = replace(
        right,
        axes=(
            *(right_axes[x] for x in batch),
            flat(right_axes[x] for x in inner),
            flat(right_axes[x] for x in columns),
        ),
    )
    value = product(ctx, a, b)
    lengths = {x: left.shape[first.index(x)] for x in first} | {x: right.shape[second.index(x)] for x in second}
    order = [*batch, *rows, *columns]
    value = reshaped(ctx, value, [lengths[x] for x in order])
    return replace(value, axes=tuple(value.axes[order.index(x)] for x in made))


def _linear(ctx: Lowering, value: Value, weight: NDArray[Any], first: str, second: str, made: str) -> Value:
    inner = [x for x in first if x in second and x not in made]
    out = [x for x in second if x not in first]
    if any(x in second and x in made for x in first):
        return _two(ctx, value, as_value(ctx, weight), first, second, made)
    axes = dict(zip(first, value.axes, strict=True))
    kept = [x for x in first if x not in inner]
    merged = replace(value, axes=(*(axes[x] for x in kept), flat(axes[x] for x in inner)))
    lengths = dict(zip(second, weight.shape, strict=True))
    order = [second.index(x) for x in (*out, *inner)]
    rows = 1
    for x in out:
        rows *= lengths[x]
    matrix = weight.transpose(order).reshape(rows, -1)
    made_value = contract(ctx, merged, len(kept), matrix)
    shape = [*made_value.shape[:-1], *(lengths[x] for x in out)]
    made_value = reshaped(ctx, made_value, shape)
    letters = [*kept, *out]
    return replace(made_value, axes=tuple(made_value.axes[letters.index(x)] for x in made))
