"""Lower Einsum of one or two inputs to a view, a MatMul or a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
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
    """Einsum: letters in both inputs and the output are batch axes, letters only in the inputs are summed."""
    text = ctx.node.attributes["equation"].replace(" ", "")
    inputs, output = text.split("->") if "->" in text else (text, "")
    terms = inputs.split(",")
    if not output or "." in text or any(len(set(t)) < len(t) for t in (*terms, output)) or len(terms) > 2:
        raise ctx.unsupported(f"the equation {text}")
    if len(terms) == 1:
        return ctx.bind(_one(ctx, ctx.value(), terms[0], output))
    left, right = ctx.input(0), ctx.input(1)
    first, second = terms
    if not isinstance(left, Value):
        left, right, first, second = right, left, second, first
    assert isinstance(left, Value)
    if isinstance(right, Value):
        return ctx.bind(_two(ctx, left, right, first, second, output))
    ctx.bind(_linear(ctx, left, right, first, second, output))


def _one(ctx: Lowering, value: Value, letters: str, output: str) -> Value:
    summed = [value.axes[i] for i, letter in enumerate(letters) if letter not in output]
    if summed:
        value = mean(ctx, value, summed, float(size(flat(summed))))
    return _permuted(value, letters, output)


def _permuted(value: Value, letters: Sequence[str], output: str) -> Value:
    return replace(value, axes=tuple(value.axes[letters.index(letter)] for letter in output))


def _two(ctx: Lowering, left: Value, right: Value, first: str, second: str, output: str) -> Value:
    batch = [x for x in first if x in second and x in output]
    inner = [x for x in first if x in second and x not in output]
    rows = [x for x in first if x not in second and x in output]
    columns = [x for x in second if x not in first and x in output]
    if {*batch, *inner, *rows} != {*first} or {*batch, *inner, *columns} != {*second}:
        raise ctx.unsupported(f"the equation {first},{second}->{output} sums over a letter of one input alone")
    left_axes, right_axes = dict(zip(first, left.axes, strict=True)), dict(zip(second, right.axes, strict=True))
    a, b = (
        replace(v, axes=(*(axes[x] for x in batch), *(flat(axes[x] for x in group) for group in groups)))
        for v, axes, groups in ((left, left_axes, (rows, inner)), (right, right_axes, (inner, columns)))
    )
    lengths = dict(zip(first, left.shape, strict=True)) | dict(zip(second, right.shape, strict=True))
    letters = [*batch, *rows, *columns]
    return _permuted(reshaped(ctx, product(ctx, a, b), [lengths[x] for x in letters]), letters, output)


def _linear(ctx: Lowering, value: Value, weight: NDArray[Any], first: str, second: str, output: str) -> Value:
    if any(x in second and x in output for x in first):
        return _two(ctx, value, as_value(ctx, weight), first, second, output)
    inner = [x for x in first if x in second]
    out = [x for x in second if x not in first]
    axes = dict(zip(first, value.axes, strict=True))
    kept = [x for x in first if x not in inner]
    merged = replace(value, axes=(*(axes[x] for x in kept), flat(axes[x] for x in inner)))
    lengths = dict(zip(second, weight.shape, strict=True))
    matrix = weight.transpose([second.index(x) for x in (*out, *inner)]).reshape(prod(lengths[x] for x in out), -1)
    result = contract(ctx, merged, len(kept), matrix)
    result = reshaped(ctx, result, [*result.shape[:-1], *(lengths[x] for x in out)])
    return _permuted(result, [*kept, *out], output)
