"""Lower elementwise operators of one or several inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import Atom, flat, sizes, with_axis
from bpudeploy.restructure.lower.affine import apply_affine
from bpudeploy.restructure.lower.context import Lowering, broadcastable
from bpudeploy.restructure.lower.layouts import joint_layout, restricted
from bpudeploy.restructure.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_ATTRIBUTES = ("alpha", "beta", "gamma")


def unary(ctx: Lowering) -> None:
    """An operator of one input, in any layout."""
    kept = {k: v for k, v in ctx.node.attributes.items() if k in _KEPT_ATTRIBUTES}
    ctx.bind(elementwise(ctx, ctx.node.op, ctx.value(), **kept))


def elementwise(ctx: Lowering, op: str, value: Value, *others: str, **options: Any) -> Value:
    """Return ``op`` of ``value`` and of ``others``, tensors in the same layout; ``options`` are those of ``emit``."""
    value = ctx.apply_pending(value)
    return value.stored_as(ctx.emit(op, [value.name, *others], sizes(value.dims), **options))


def square(ctx: Lowering, value: Value) -> Value:
    """Return x · x, kept in float."""
    value = ctx.apply_pending(value)
    return elementwise(ctx, "Mul", value, value.name, suffix="square", keep_float=True)


def negate(ctx: Lowering) -> None:
    """Neg: a scale of -1, foldable into a convolution."""
    ctx.bind(apply_affine(ctx, ctx.value(), (), np.array(-1.0), np.array(0.0)))


def hard_swish(ctx: Lowering) -> None:
    """HardSwish(x) = x · HardSigmoid(x; 1/6, 1/2), in operators of opset 11."""
    value = ctx.apply_pending(ctx.value())
    gate = elementwise(ctx, "HardSigmoid", value, suffix="gate", alpha=1.0 / 6.0, beta=0.5)
    ctx.bind(elementwise(ctx, "Mul", value, gate.name, suffix="hardswish"))


def mish(ctx: Lowering) -> None:
    """Mish(x) = x · tanh(softplus(x)), in operators of opset 11."""
    value = ctx.apply_pending(ctx.value())
    gate = elementwise(ctx, "Tanh", elementwise(ctx, "Softplus", value))
    ctx.bind(elementwise(ctx, "Mul", value, gate.name, suffix="mish"))


def gelu(ctx: Lowering) -> None:
    """GELU(x) = (x · (1 + erf(x / √2))) · ½, in the order that vendor compilers recognise; or the tanh form."""
    x = ctx.apply_pending(ctx.value())
    if ctx.node.attributes.get("approximate") == "tanh":
        cube = elementwise(ctx, "Mul", elementwise(ctx, "Mul", x, x.name), x.name)
        scaled = elementwise(ctx, "Mul", cube, ctx.scalar(0.044715))
        inner = elementwise(ctx, "Add", x, scaled.name)
        bounded = elementwise(ctx, "Tanh", elementwise(ctx, "Mul", inner, ctx.scalar(float(np.sqrt(2 / np.pi)))))
    else:
        bounded = elementwise(ctx, "Erf", elementwise(ctx, "Div", x, ctx.scalar(float(np.sqrt(2.0)))))
    product = elementwise(ctx, "Mul", x, elementwise(ctx, "Add", bounded, ctx.scalar(1.0)).name)
    ctx.bind(elementwise(ctx, "Mul", product, ctx.scalar(0.5), suffix="gelu"))


def clip(ctx: Lowering) -> None:
    """Clip, with its limits as scalar inputs."""
    value = ctx.apply_pending(ctx.value())
    limits = []
    for index, name in ((1, "min"), (2, "max")):
        given = ctx.optional(index)
        limit = ctx.node.attributes.get(name) if given is None else given
        limits.append("" if limit is None else ctx.store(np.array(limit, np.float32).reshape(()), "limit"))
    ctx.bind(elementwise(ctx, "Clip", value, *(limits if limits[1] else limits[:1])))


def power(ctx: Lowering) -> None:
    """Pow with a constant exponent: a product, a root, or Pow itself."""
    value, exponent = ctx.apply_pending(ctx.value()), ctx.constant(1)
    if exponent.size != 1:
        return binary(ctx)
    match float(exponent.reshape(())):
        case 2.0:
            result = square(ctx, value)
        case 0.5:
            result = elementwise(ctx, "Sqrt", value)
        case -0.5:
            result = elementwise(ctx, "Reciprocal", elementwise(ctx, "Sqrt", value))
        case other:
            result = elementwise(ctx, "Pow", value, ctx.scalar(other))
    ctx.bind(result)


def binary(ctx: Lowering) -> None:
    """Add, Sub, Mul, Div, PRelu: of a value and a constant, or of two values."""
    ctx.bind(binary_of(ctx, ctx.node.op, ctx.input(0), ctx.input(1)))


def several(ctx: Lowering) -> None:
    """Sum, Min, Max and Mean of any number of inputs, pairwise."""
    op = {"Sum": "Add", "Mean": "Add"}.get(ctx.node.op, ctx.node.op)
    total = ctx.value(0)
    for index in range(1, len(ctx.node.inputs)):
        total = binary_of(ctx, op, total, ctx.input(index))
    if ctx.node.op == "Mean":
        total = apply_affine(ctx, total, (), np.array(1.0 / len(ctx.node.inputs)), np.array(0.0))
    ctx.bind(total)


def where(ctx: Lowering) -> None:
    """Where with a constant condition and a constant branch: x · mask + the other constant."""
    mask, chosen, other = ctx.constant(0), ctx.input(1), ctx.input(2)
    kept = mask.astype(np.float64)
    if isinstance(other, Value):
        chosen, other, kept, mask = other, chosen, 1.0 - kept, ~mask.astype(bool)
    if not isinstance(chosen, Value) or isinstance(other, Value):
        raise ctx.unsupported("both of its branches depend on the image")
    ctx.bind(binary_of(ctx, "Add", binary_of(ctx, "Mul", chosen, kept), np.where(mask, 0.0, other)))


def _with_constant(ctx: Lowering, op: str, value: Value, constant: NDArray[Any], first: bool) -> Value:
    """Return ``value op constant``, or ``constant op value`` if ``first``."""
    constant = constant.astype(np.float64)
    rank = max(constant.ndim, len(value.axes))
    constant = constant.reshape([1] * (rank - constant.ndim) + list(constant.shape))
    value = value.with_rank(rank)
    affine = _as_affine(op, constant, first)
    varying = [i for i, n in enumerate(constant.shape) if n > 1]
    atoms = flat(value.axes[i] for i in varying)
    fits = all(value.axes[i] for i in varying) and set(atoms) <= value.stored
    foldable = fits and (len(varying) <= 1 or set(atoms) <= set(value.dims[1]))
    if affine is not None and foldable and np.isfinite(affine).all():
        return apply_affine(ctx, value, atoms, affine[0].reshape(-1), affine[1].reshape(-1))
    return _emit_with_constant(ctx, op, ctx.apply_pending(value), constant, first)


def _as_affine(op: str, constant: NDArray[np.float64], first: bool) -> NDArray[np.float64] | None:
    """Return (scale, shift) if ``op`` with the constant is x · scale + shift, else None."""
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


def _emit_with_constant(ctx: Lowering, op: str, value: Value, constant: NDArray[np.float64], first: bool) -> Value:
    """Append ``op`` with the constant in the value's layout; a larger constant broadcasts the value."""
    axes = tuple(axis or ((Atom(n),) if n > 1 else ()) for axis, n in zip(value.axes, constant.shape, strict=True))
    value = replace(value, axes=axes, producer=None)
    varying = [i for i, n in enumerate(constant.shape) if n > 1]
    atoms = flat(value.axes[i] for i in varying)
    grown = tuple(a for a in atoms if a not in value.stored)
    dims = value.dims
    if grown:
        value, free = ctx.with_free_axis(value)
        dims = with_axis(value.dims, free, grown)
    operand = ctx.store(broadcastable(constant.reshape(-1), atoms, dims), "operand", shared=True)
    inputs = [operand, value.name] if first else [value.name, operand]
    return value.stored_as(ctx.emit(op, inputs, sizes(dims)), dims)


def binary_of(ctx: Lowering, op: str, left: Value | NDArray[Any], right: Value | NDArray[Any]) -> Value:
    """Return ``left op right``, of which at most one is a constant, with NumPy's broadcasting."""
    if not isinstance(left, Value):
        assert isinstance(right, Value)
        return _with_constant(ctx, op, right, left, True)
    if not isinstance(right, Value):
        return _with_constant(ctx, op, left, right, False)
    rank = max(len(left.axes), len(right.axes))
    left, right = (ctx.apply_pending(v).with_rank(rank) for v in (left, right))
    if left is right or (left.name == right.name and left.axes == right.axes):
        return elementwise(ctx, op, left, left.name)
    left, right = ctx.align([left, right])
    axes = tuple(a or b for a, b in zip(left.axes, right.axes, strict=True))
    dims = joint_layout(left, right)
    left, right = (ctx.relayout(v, restricted(dims, v)) for v in (left, right))
    name = ctx.emit(op, [left.name, right.name], sizes(dims))
    return Value(name, dims, axes)
