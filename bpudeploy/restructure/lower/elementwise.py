"""Operators that act on each element alone, with one input or two."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, sizes
from bpudeploy.restructure.lower.affine import apply_affine
from bpudeploy.restructure.lower.context import Lowering, spread
from bpudeploy.restructure.lower.layouts import joint_layout, restricted
from bpudeploy.restructure.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_ATTRIBUTES = ("alpha", "beta", "gamma")


def unary(ctx: Lowering) -> None:
    """An operator of one input, whatever the layout."""
    ctx.bind(
        unary_of(ctx, ctx.at.op, ctx.value(), **{k: v for k, v in ctx.at.attributes.items() if k in _KEPT_ATTRIBUTES})
    )


def unary_of(ctx: Lowering, op: str, value: Value, **attributes: Any) -> Value:
    """Append ``op`` and return its value."""
    value = ctx.settle(value)
    name = ctx.emit(op, [value.name], sizes(value.dims), **attributes)
    return replace(value, name=name, maker=None)


def negate(ctx: Lowering) -> None:
    """Neg: a scale of -1, which a convolution takes up."""
    ctx.bind(apply_affine(ctx, ctx.value(), (), np.array(-1.0), np.array(0.0)))


def hard_swish(ctx: Lowering) -> None:
    """HardSwish(x) = x · HardSigmoid(x; 1/6, 1/2), as opset 11 writes it."""
    value = ctx.settle(ctx.value())
    gate = ctx.emit("HardSigmoid", [value.name], sizes(value.dims), "gate", alpha=1.0 / 6.0, beta=0.5)
    ctx.bind(replace(value, name=ctx.emit("Mul", [value.name, gate], sizes(value.dims), "hardswish"), maker=None))


def mish(ctx: Lowering) -> None:
    """Mish(x) = x · tanh(softplus(x)), as opset 11 writes it."""
    value = ctx.settle(ctx.value())
    shape = sizes(value.dims)
    gate = ctx.emit("Tanh", [ctx.emit("Softplus", [value.name], shape)], shape)
    ctx.bind(replace(value, name=ctx.emit("Mul", [value.name, gate], shape, "mish"), maker=None))


def gelu(ctx: Lowering) -> None:
    """GELU(x) = (x · (1 + erf(x / √2))) · ½, in the order that vendor compilers look for; or its tanh form."""
    value = ctx.settle(ctx.value())
    shape, x = sizes(value.dims), value.name
    if ctx.at.attributes.get("approximate", b"none") in (b"tanh", "tanh"):
        cube = ctx.emit("Mul", [ctx.emit("Mul", [x, x], shape), x], shape)
        inner = ctx.emit("Add", [x, ctx.emit("Mul", [cube, ctx.scalar(0.044715)], shape)], shape)
        bend = ctx.emit("Tanh", [ctx.emit("Mul", [inner, ctx.scalar(float(np.sqrt(2 / np.pi)))], shape)], shape)
    else:
        bend = ctx.emit("Erf", [ctx.emit("Div", [x, ctx.scalar(float(np.sqrt(2.0)))], shape)], shape)
    product = ctx.emit("Mul", [x, ctx.emit("Add", [bend, ctx.scalar(1.0)], shape)], shape)
    ctx.bind(replace(value, name=ctx.emit("Mul", [product, ctx.scalar(0.5)], shape, "gelu"), maker=None))


def clip(ctx: Lowering) -> None:
    """Clip: its limits are scalar inputs."""
    value = ctx.settle(ctx.value())
    given = [
        ctx.at.attributes.get(name) if ctx.constant(i) is None else ctx.constant(i)
        for i, name in ((1, "min"), (2, "max"))
    ]
    limits = [ctx.store(np.array(v, np.float32).reshape(()), "limit") if v is not None else "" for v in given]
    name = ctx.emit("Clip", [value.name, *limits] if limits[1] else [value.name, limits[0]], sizes(value.dims))
    ctx.bind(replace(value, name=name, maker=None))


def power(ctx: Lowering) -> None:
    """Pow with a constant exponent: a product, a root, or Pow itself."""
    value, exponent = ctx.settle(ctx.value()), ctx.constant(1)
    assert exponent is not None
    shape = sizes(value.dims)
    if exponent.size != 1:
        return binary(ctx)
    match float(exponent.reshape(())):
        case 2.0:
            name = ctx.emit("Mul", [value.name, value.name], shape, "square", keep_float=True)
        case 0.5:
            name = ctx.emit("Sqrt", [value.name], shape)
        case -0.5:
            name = ctx.emit("Reciprocal", [ctx.emit("Sqrt", [value.name], shape)], shape)
        case other:
            name = ctx.emit("Pow", [value.name, ctx.scalar(other)], shape)
    ctx.bind(replace(value, name=name, maker=None))


def binary(ctx: Lowering) -> None:
    """Add, Sub, Mul, Div and their kin: of a value and a constant, or of two values."""
    left, right = ctx.get(0), ctx.get(1)
    if isinstance(left, Value) and isinstance(right, Value):
        ctx.bind(binary_of(ctx, ctx.at.op, left, right))
    elif isinstance(left, Value):
        assert right is not None
        ctx.bind(with_constant(ctx, ctx.at.op, left, np.asarray(right), False))
    else:
        assert isinstance(right, Value) and left is not None
        ctx.bind(with_constant(ctx, ctx.at.op, right, np.asarray(left), True))


def several(ctx: Lowering) -> None:
    """Sum, Min, Max and Mean of any number of inputs, two by two."""
    op = {"Sum": "Add", "Mean": "Add"}.get(ctx.at.op, ctx.at.op)
    total = ctx.value(0)
    for index in range(1, len(ctx.at.inputs)):
        other = ctx.get(index)
        assert other is not None
        total = (
            binary_of(ctx, op, total, other)
            if isinstance(other, Value)
            else with_constant(ctx, op, total, other, False)
        )
    if ctx.at.op == "Mean":
        total = apply_affine(ctx, total, (), np.array(1.0 / len(ctx.at.inputs)), np.array(0.0))
    ctx.bind(total)


def where(ctx: Lowering) -> None:
    """Where with a constant condition: a product with the mask and a sum with the other constant."""
    mask = ctx.constant(0)
    assert mask is not None
    chosen, other = ctx.get(1), ctx.get(2)
    kept = mask.astype(np.float64)
    if isinstance(other, Value):
        chosen, other, kept, mask = other, chosen, 1.0 - kept, ~mask.astype(bool)
    if not isinstance(chosen, Value) or isinstance(other, Value) or other is None:
        raise ctx.refuse("it chooses between two images' values")
    value = with_constant(ctx, "Mul", chosen, kept, False)
    ctx.bind(with_constant(ctx, "Add", value, np.where(mask, 0.0, other), False))


def with_constant(ctx: Lowering, op: str, value: Value, constant: NDArray[Any], first: bool) -> Value:
    """Return ``value op constant``, or ``constant op value`` where ``first``."""
    constant = constant.astype(np.float64)
    rank = max(constant.ndim, len(value.axes))
    constant = constant.reshape([1] * (rank - constant.ndim) + list(constant.shape))
    value = value.ranked(rank)
    line = _line(op, constant, first)
    varying = [i for i, n in enumerate(constant.shape) if n > 1]
    atoms = flat(value.axes[i] for i in varying)
    fits = all(value.axes[i] for i in varying) and set(atoms) <= value.stored
    if (
        line is not None
        and fits
        and (len(varying) <= 1 or set(atoms) <= set(value.dims[1]))
        and np.isfinite(line).all()
    ):
        return apply_affine(ctx, value, atoms, line[0].reshape(-1), line[1].reshape(-1))
    return _meet_constant(ctx, op, ctx.settle(value), constant, first)


def _line(op: str, constant: NDArray[np.float64], first: bool) -> NDArray[np.float64] | None:
    """Return (scale, shift) when ``op`` with a constant is x · scale + shift, else None."""
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    match op, first:
        case "Add", _:
            return np.stack([one, constant])
        case "Sub", False:
            return np.stack([one, -constant])
        case "Sub", True:
            return np.stack([-one, constant])
        case "Mul", _:
            return np.stack([constant, zero])
        case "Div", False if constant.all():
            return np.stack([one / constant, zero])
    return None


def _meet_constant(ctx: Lowering, op: str, value: Value, constant: NDArray[np.float64], first: bool) -> Value:
    """Append ``op`` with the constant laid out as the value is; where the constant is larger, the value grows."""
    axes = tuple(axis or ((Atom(n),) if n > 1 else ()) for axis, n in zip(value.axes, constant.shape, strict=True))
    value = replace(value, axes=axes, maker=None)
    varying = [i for i, n in enumerate(constant.shape) if n > 1]
    atoms = flat(value.axes[i] for i in varying)
    grown = tuple(a for a in atoms if a not in value.stored)
    if grown:
        value, dims = _with_room(ctx, value, grown)
    else:
        dims = value.dims
    operand = ctx.store(spread(constant.reshape(-1), atoms, dims), "operand", shared=True)
    inputs = [operand, value.name] if first else [value.name, operand]
    return replace(value, name=ctx.emit(op, inputs, sizes(dims)), dims=dims)


def _with_room(ctx: Lowering, value: Value, grown: Atoms) -> tuple[Value, Dims]:
    """Return ``value`` in a layout with an empty axis, and that layout with ``grown`` there."""
    value, free = ctx.roomy(value)
    made: Dims = tuple(grown if g == free else value.dims[g] for g in range(4))  # type: ignore[assignment]
    return value, made


def binary_of(ctx: Lowering, op: str, left: Value, right: Value) -> Value:
    """Return ``left op right``, both from the image, with numpy's broadcasting."""
    rank = max(len(left.axes), len(right.axes))
    left, right = (ctx.settle(v).ranked(rank) for v in (left, right))
    if left is right or (left.name == right.name and left.axes == right.axes):
        return replace(left, name=ctx.emit(op, [left.name, left.name], sizes(left.dims)), maker=None)
    left, right = ctx.align([left, right])
    axes = tuple(a or b for a, b in zip(left.axes, right.axes, strict=True))
    dims = joint_layout(left, right)
    left, right = (ctx.relayout(v, restricted(dims, v)) for v in (left, right))
    name = ctx.emit(op, [left.name, right.name], sizes(dims))
    return Value(name, dims, axes)
