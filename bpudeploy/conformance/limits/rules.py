"""Limits that are no bound on one measure: rules in the vendor's words, and numbers with conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.limits.measures import (
    Dims,
    Unchecked,
    at_most,
    dilations,
    kernel,
    one_of,
    ordered,
    pair,
    strides,
    text,
    weight,
    within,
)
from bpudeploy.conformance.table import Limits, OpTable, Range, Rule


@dataclass(frozen=True, eq=False)
class Case:
    """One node against the limits of its operator on one march."""

    node: NodeView
    limits: Limits
    table: OpTable


def _pool_kernel(case: Case, rule: Rule) -> Iterator[str]:
    found, node = kernel(case.node), case.node
    if max(found) > 7 and not (_tiles(node) and (_is_global(node) or all(map(_has_small_factors, found)))):
        yield f"kernel {text(found)} with stride {text(strides(node))}, must be {rule.value}"


def _is_global(node: NodeView) -> bool:
    return node.features[0].dims[2:] == kernel(node)


def _tiles(node: NodeView) -> bool:
    """Return whether the windows do not overlap."""
    return strides(node) == kernel(node) or _is_global(node)


def _has_small_factors(n: int) -> bool:
    for factor in (2, 3, 5, 7):
        while n % factor == 0:
            n //= factor
    return n == 1


def _kernel_volume(case: Case, limit: int) -> Iterator[str]:
    if case.node.op in ("Conv", "Gemm"):
        yield from at_most("C*kh*kw of the kernel is", [prod(weight(case.node)[1:])], limit)
    elif not _tiles(case.node):
        yield from at_most("kh*kw of the kernel is", [prod(kernel(case.node))], limit)


def _channels_per_group(case: Case, limit: int) -> Iterator[str]:
    """Check input and output channels; other limits apply to one group and to a 1x1 output."""
    node, limits = case.node, case.limits
    (group,) = node.numbers("group", default=[1])
    made, read = weight(node)[:2]
    if limits.max_channels_hw1 is not None and node.op == "Conv" and set(node.outputs[0].dims[2:]) == {1}:
        yield from at_most("input channels of a 1x1 output", [read], limits.max_channels_hw1)
        return
    if group == 1 and limits.max_channels_plain is not None:
        limit = limits.max_channels_plain
    yield from at_most("input channels per group", [read], limit)
    yield from at_most("output channels per group", [made // group], limit)


def _stride_with_add(case: Case, _: Rule) -> Iterator[str]:
    found = strides(case.node)
    if max(found) > 2 and "Add" in case.node.consumers:
        yield Unchecked(f"stride {text(found)} before an Add: must be 1 or 2 if the tool fuses them")


def _small_dilation(case: Case, rule: Rule) -> Iterator[str]:
    found = dilations(case.node)
    if not set(found) <= {1, 2, 4}:
        yield f"dilation {text(found)}, must be 1, 2 or 4"
    else:
        yield from ordered("dilation", found, rule)


def _dilated(case: Case, _: Rule) -> Iterator[str]:
    found, stride = dilations(case.node), strides(case.node)
    if max(found, default=1) > 1 and max(stride) > 1:
        yield f"dilation {text(found)} with stride {text(stride)}, must be 1"


def _pad(case: Case, limit: Range | Rule) -> Iterator[str]:
    auto = case.node.attributes.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        yield Unchecked(f"pads are left to the runtime ({auto})")
        return
    size = kernel(case.node)
    pads = case.node.numbers("pads", default=[0] * 2 * len(size))
    if not isinstance(limit, Rule):
        yield from within("pads", pads, limit)
        return
    most = list(map(max, pads[: len(pads) // 2], pads[len(pads) // 2 :]))
    for k, stride, pad in zip(size, strides(case.node), most, strict=True):
        if stride > 2 and k < 2 * pad + stride and not (pad == 1 and stride % 4 == 0):
            yield f"kernel {k}, stride {stride} and pad {pad}: above stride 2, k must be at least 2 * pad + stride"


def _softmax_axis(case: Case, before_13: Dims) -> Iterator[str]:
    """Before opset 13, ONNX's Softmax runs over all axes from ``axis`` on; since then, over one, as in torch."""
    allowed = case.limits.torch_axis if case.node.opset >= 13 else before_13
    if allowed is not None:
        yield from one_of("axis", (case.node.axis,), allowed)


def _not_axis(case: Case, forbidden: int) -> Iterator[str]:
    if case.node.axis == forbidden:
        yield f"axis {forbidden} is not supported"


def _axes(case: Case, allowed: Dims | Rule) -> Iterator[str]:
    if isinstance(allowed, Rule):
        before, after = case.node.features[0].dims, case.node.outputs[0].dims
        if before[:2] != after[:2]:
            yield f"it changes {text(before)} to {text(after)}, only H and W may change"
        return
    wanted = " and ".join(map(str, allowed))
    if case.node.op == "Pad":
        if not set(padded := case.node.padded_axes) <= set(allowed):
            yield f"it pads axes {text(padded)}, only {wanted} may be padded"
    elif (found := case.node.reduced_axes) != allowed:
        yield f"axes {text(found)}, must be {wanted}"


def _n_axes(case: Case, limit: int) -> Iterator[str]:
    found = case.node.reduced_axes
    together = case.limits.axes_hw_together and found == (2, 3) and case.node.rank == 4
    if len(found) > limit and not together:
        yield f"it reduces {len(found)} axes at once, the limit is {limit}"


def _equal_parts(case: Case, _: bool) -> Iterator[str]:
    sizes = [t.dims[case.node.axis] for t in case.node.outputs]
    if len(set(sizes)) > 1:
        yield f"parts of {', '.join(map(str, sizes))}, must be equal"


def _nearest_factor(case: Case, _: Rule) -> Iterator[str]:
    if case.node.attributes.get("mode", "nearest") != "nearest":
        return
    factors = case.node.factors[2:]
    if any(f < 1 or f != int(f) or int(f) & (int(f) - 1) for f in factors):
        yield f"factor {' and '.join(f'{f:g}' for f in factors)}, must be a power of two"
    elif factors[0] > factors[1]:
        yield "the factor of H must not exceed that of W"


def _exponent(case: Case, _: Rule) -> Iterator[str]:
    tensor = case.node.operand(1)
    if not tensor.constant:
        yield "the exponent is a feature map, must be one number"
    elif prod(tensor.dims) != 1:
        yield f"exponent of shape {text(tensor.dims)}, must be one number"


def _shapes(case: Case, allowed: tuple[Rule, ...] | Rule) -> Iterator[str]:
    """Check which 4-D shapes may be combined, as the list writes them; either operand may be the smaller one."""
    rules = case.table.ops["Mul"].constraints.shapes if allowed is Rule.AS_MUL else allowed
    a, b = pair(case.node)
    if not isinstance(rules, tuple) or not rules:
        if a != b:
            yield Unchecked(f"{text(a)} with {text(b)}: the list only says that the shapes are as for Mul")
    elif not any(_fits(rule, x, y) for rule in rules for x, y in ((a, b), (b, a))):
        yield f"{text(a)} with {text(b)}, must be {' or '.join(rules)}"


def _fits(rule: Rule, *shapes: Dims) -> bool:
    """Return whether shapes match patterns as in ``1CHW*1C11``: a letter is one size wherever it occurs."""
    sizes = {"1": 1}
    return all(
        len(dims) == len(pattern) and all(sizes.setdefault(c, n) == n for c, n in zip(pattern, dims, strict=True))
        for pattern, dims in zip(re.split("[*+]", rule), shapes, strict=True)
    )


def _nonzero(case: Case, _: bool) -> Iterator[str]:
    for tensor in case.node.constants:
        if tensor.values is None:
            yield Unchecked("its constant must not be 0: the weights are not available")
        elif not tensor.values.all():
            yield "its constant contains a 0"
    if case.node.features:
        yield Unchecked("values must not be 0: that depends on the image")


def _broadcast(case: Case, rule: Rule) -> Iterator[str]:
    tensors = [t.dims for t in case.node.inputs if t is not None]
    if case.node.op == "MatMul":
        a, b = tensors[0][:-2], tensors[1][:-2]
        if len(a) == len(b) and tuple(map(max, a, b)) not in (a, b):
            yield f"{text(tensors[0])} by {text(tensors[1])}: both sides are broadcast, only one may be"
        return
    out, listed = case.node.outputs[0].dims, " with ".join(map(text, tensors))
    if rule is Rule.ONE_SIDE and out not in tensors:
        yield f"{listed}: both sides are broadcast, only one may be"
    if rule is Rule.TWO_WAY_MERGED and len(out) > 4 and len(set(tensors)) > 1:
        yield Unchecked(f"{listed}: above 4-D the dimensions must be mergeable")


def _same_rank(case: Case, _: bool) -> Iterator[str]:
    a, b = pair(case.node)
    if len(a) != len(b):
        yield f"{text(a)} by {text(b)}, both must have the same rank"


def _many_rows(case: Case, limit: Range) -> Iterator[str]:
    a, b = case.node.operand(0), case.node.operand(1)
    if b.constant and len(b.dims) == 2 and len(a.dims) > 1 and prod(a.dims[:-1]) > 1:
        for name, size, most in zip("KN", b.dims, limit, strict=True):
            yield from at_most(f"with more than one row, {name} is", [size], most)


def _const_weight(case: Case, _: Rule) -> Iterator[str]:
    """Check a product with a constant: K, MxK, ... AxBxMxK by KxN."""
    if not case.node.constants:
        return
    if not case.node.operand(1).constant:
        yield Unchecked("the left operand is the constant; the list only covers a constant right operand")
        return
    left, right = pair(case.node)
    if len(left) > 4:
        yield f"{text(left)} by a constant, must have 4 dimensions or less"
    elif len(right) != 2:
        yield Unchecked(f"constant of shape {text(right)}; the list only covers KxN")


def _two_maps(case: Case, rule: Rule) -> Iterator[str]:
    if case.node.constants:
        return
    a, b = pair(case.node)
    if not (len(a) == len(b) == 4 and a[0] == 1 and b[:2] == (1, 1)):
        yield f"{text(a)} by {text(b)}, two feature maps multiply {rule}"


RULES: dict[str, Callable[[Case, Any], Iterator[str]]] = {
    "max_channels_per_group": _channels_per_group,
    "max_kernel_volume": _kernel_volume,
    "kernel": _pool_kernel,
    "stride": _stride_with_add,
    "dilation": _small_dilation,
    "dilation_gt1": _dilated,
    "pad": _pad,
    "onnx_axis": _softmax_axis,
    "not_axis": _not_axis,
    "axes": _axes,
    "n_axes": _n_axes,
    "equal_parts": _equal_parts,
    "nearest_factor": _nearest_factor,
    "exponent": _exponent,
    "shapes": _shapes,
    "values_nonzero": _nonzero,
    "broadcast": _broadcast,
    "same_rank": _same_rank,
    "max_kn_many_rows": _many_rows,
    "const_weight": _const_weight,
    "two_featuremaps": _two_maps,
}
"""Limit -> its check, called with the value of the limit, which is never None."""
