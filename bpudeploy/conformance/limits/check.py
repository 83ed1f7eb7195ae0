"""Check a node against every limit of its operator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from bpudeploy.conformance.graph import Dims, NodeView, UnknownValue
from bpudeploy.conformance.limits.measures import (
    MEASURES,
    Unchecked,
    at_most,
    dilations,
    kernel,
    maps,
    one_of,
    ordered,
    pair,
    ranks,
    strides,
    text,
    weight,
    within,
)
from bpudeploy.conformance.table import Limits, OpFact, OpTable, Range, Rule


@dataclass(frozen=True, eq=False)
class _Checks:
    """One node of an operator with ``limits``. Each public method checks the limit of its name, given its value."""

    node: NodeView
    limits: Limits
    table: OpTable

    def kernel(self, rule: Rule) -> Iterator[str]:
        found, node = kernel(self.node), self.node
        if max(found) > 7 and not (_tiles(node) and (_is_global(node) or all(map(_has_small_factors, found)))):
            yield f"kernel {text(found)} with stride {text(strides(node))}, must be {rule.value}"

    def max_kernel_volume(self, limit: int) -> Iterator[str]:
        if self.node.op in ("Conv", "Gemm"):
            yield from at_most("C*kh*kw of the kernel is", [prod(weight(self.node)[1:])], limit)
        elif not _tiles(self.node):
            yield from at_most("kh*kw of the kernel is", [prod(kernel(self.node))], limit)

    def max_channels_per_group(self, limit: int) -> Iterator[str]:
        """Check input and output channels; other limits apply to one group and to a 1x1 output."""
        node, limits = self.node, self.limits
        (group,) = node.numbers("group", default=[1])
        made, read = weight(node)[:2]
        if limits.max_channels_hw1 is not None and node.op == "Conv" and set(node.outputs[0].dims[2:]) == {1}:
            yield from at_most("input channels of a 1x1 output", [read], limits.max_channels_hw1)
            return
        if group == 1 and limits.max_channels_plain is not None:
            limit = limits.max_channels_plain
        yield from at_most("input channels per group", [read], limit)
        yield from at_most("output channels per group", [made // group], limit)

    def stride(self, _: Rule) -> Iterator[str]:
        found = strides(self.node)
        if max(found) > 2 and "Add" in self.node.consumers:
            yield Unchecked(f"stride {text(found)} before an Add: must be 1 or 2 if the tool fuses them")

    def dilation(self, rule: Rule) -> Iterator[str]:
        found = dilations(self.node)
        if not set(found) <= {1, 2, 4}:
            yield f"dilation {text(found)}, must be 1, 2 or 4"
        else:
            yield from ordered("dilation", found, rule)

    def dilation_gt1(self, _: Rule) -> Iterator[str]:
        found, stride = dilations(self.node), strides(self.node)
        if max(found, default=1) > 1 and max(stride) > 1:
            yield f"dilation {text(found)} with stride {text(stride)}, must be 1"

    def pad(self, limit: Range | Rule) -> Iterator[str]:
        auto = self.node.attributes.get("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID"):
            yield Unchecked(f"pads are left to the runtime ({auto})")
            return
        size = kernel(self.node)
        pads = self.node.numbers("pads", default=[0] * 2 * len(size))
        if not isinstance(limit, Rule):
            yield from within("pads", pads, limit)
            return
        most = list(map(max, pads[: len(pads) // 2], pads[len(pads) // 2 :]))
        for k, stride, pad in zip(size, strides(self.node), most, strict=True):
            if stride > 2 and k < 2 * pad + stride and not (pad == 1 and stride % 4 == 0):
                yield f"kernel {k}, stride {stride} and pad {pad}: above stride 2, k must be at least 2 * pad + stride"

    def onnx_axis(self, before_13: Dims) -> Iterator[str]:
        """Before opset 13, ONNX's Softmax runs over all axes from ``axis`` on; since then, over one, as in torch."""
        allowed = self.limits.torch_axis if self.node.opset >= 13 else before_13
        if allowed is not None:
            yield from one_of("axis", (self.node.axis,), allowed)

    def not_axis(self, forbidden: int) -> Iterator[str]:
        if self.node.axis == forbidden:
            yield f"axis {forbidden} is not supported"

    def axes(self, allowed: Dims | Rule) -> Iterator[str]:
        if isinstance(allowed, Rule):
            before, after = self.node.features[0].dims, self.node.outputs[0].dims
            if before[:2] != after[:2]:
                yield f"it changes {text(before)} to {text(after)}, only H and W may change"
            return
        wanted = " and ".join(map(str, allowed))
        if self.node.op == "Pad":
            if not set(padded := self.node.padded_axes) <= set(allowed):
                yield f"it pads axes {text(padded)}, only {wanted} may be padded"
        elif (found := self.node.reduced_axes) != allowed:
            yield f"axes {text(found)}, must be {wanted}"

    def n_axes(self, limit: int) -> Iterator[str]:
        found = self.node.reduced_axes
        together = self.limits.axes_hw_together and found == (2, 3) and self.node.rank == 4
        if len(found) > limit and not together:
            yield f"it reduces {len(found)} axes at once, the limit is {limit}"

    def equal_parts(self, _: bool) -> Iterator[str]:
        sizes = [t.dims[self.node.axis] for t in self.node.outputs]
        if len(set(sizes)) > 1:
            yield f"parts of {', '.join(map(str, sizes))}, must be equal"

    def nearest_factor(self, _: Rule) -> Iterator[str]:
        if self.node.attributes.get("mode", "nearest") != "nearest":
            return
        factors = self.node.factors[2:]
        if any(f < 1 or f != int(f) or int(f) & (int(f) - 1) for f in factors):
            yield f"factor {' and '.join(f'{f:g}' for f in factors)}, must be a power of two"
        elif factors[0] > factors[1]:
            yield "the factor of H must not exceed that of W"

    def exponent(self, _: Rule) -> Iterator[str]:
        tensor = self.node.operand(1)
        if not tensor.constant:
            yield "the exponent is a feature map, must be one number"
        elif prod(tensor.dims) != 1:
            yield f"exponent of shape {text(tensor.dims)}, must be one number"

    def shapes(self, allowed: tuple[Rule, ...] | Rule) -> Iterator[str]:
        """Check which 4-D shapes may be combined, as the list writes them; either operand may be the smaller one."""
        rules = self.table.ops["Mul"].constraints.shapes if allowed is Rule.AS_MUL else allowed
        a, b = pair(self.node)
        if not isinstance(rules, tuple) or not rules:
            if a != b:
                yield Unchecked(f"{text(a)} with {text(b)}: the list only says that the shapes are as for Mul")
        elif not any(_fits(rule, x, y) for rule in rules for x, y in ((a, b), (b, a))):
            yield f"{text(a)} with {text(b)}, must be {' or '.join(rules)}"

    def values_nonzero(self, _: bool) -> Iterator[str]:
        for tensor in self.node.constants:
            if tensor.values is None:
                yield Unchecked("its constant must not be 0: the weights are not available")
            elif not tensor.values.all():
                yield "its constant contains a 0"
        if self.node.features:
            yield Unchecked("values must not be 0: that depends on the image")

    def broadcast(self, rule: Rule) -> Iterator[str]:
        tensors = [t.dims for t in self.node.inputs if t is not None]
        if self.node.op == "MatMul":
            a, b = tensors[0][:-2], tensors[1][:-2]
            if len(a) == len(b) and tuple(map(max, a, b)) not in (a, b):
                yield f"{text(tensors[0])} by {text(tensors[1])}: both sides are broadcast, only one may be"
            return
        out, listed = self.node.outputs[0].dims, " with ".join(map(text, tensors))
        if rule is Rule.ONE_SIDE and out not in tensors:
            yield f"{listed}: both sides are broadcast, only one may be"
        if rule is Rule.TWO_WAY_MERGED and len(out) > 4 and len(set(tensors)) > 1:
            yield Unchecked(f"{listed}: above 4-D the dimensions must be mergeable")

    def same_rank(self, _: bool) -> Iterator[str]:
        a, b = pair(self.node)
        if len(a) != len(b):
            yield f"{text(a)} by {text(b)}, both must have the same rank"

    def max_kn_many_rows(self, limit: Range) -> Iterator[str]:
        a, b = self.node.operand(0), self.node.operand(1)
        if b.constant and len(b.dims) == 2 and len(a.dims) > 1 and prod(a.dims[:-1]) > 1:
            for name, size, most in zip("KN", b.dims, limit, strict=True):
                yield from at_most(f"with more than one row, {name} is", [size], most)

    def const_weight(self, _: Rule) -> Iterator[str]:
        """Check a product with a constant: K, MxK, ... AxBxMxK by KxN."""
        if not self.node.constants:
            return
        if not self.node.operand(1).constant:
            yield Unchecked("the left operand is the constant; the list only covers a constant right operand")
            return
        left, right = pair(self.node)
        if len(left) > 4:
            yield f"{text(left)} by a constant, must have 4 dimensions or less"
        elif len(right) != 2:
            yield Unchecked(f"constant of shape {text(right)}; the list only covers KxN")

    def two_featuremaps(self, rule: Rule) -> Iterator[str]:
        if self.node.constants:
            return
        a, b = pair(self.node)
        if not (len(a) == len(b) == 4 and a[0] == 1 and b[:2] == (1, 1)):
            yield f"{text(a)} by {text(b)}, two feature maps multiply {rule}"

    def _check(self, name: str) -> Iterator[str]:
        """Yield how the node violates one limit, or an Unchecked text."""
        limit = getattr(self.limits, name)
        if limit is None or limit is Rule.ANY:
            return
        if name not in MEASURES or (isinstance(limit, Rule) and name in _RULES):
            yield from getattr(self, name)(limit)
        else:
            compare, what, measure = MEASURES[name]
            yield from compare(what, tuple(measure(self.node)), limit)

    def _general(self, *, check_ranks: bool) -> Iterator[str]:
        """Yield the first violation of what applies to every tensor on this BPU; without ranks, of sizes only."""
        rules, own = self.table.general, self.limits
        if not self.table.complete:
            return
        own_rank = any(x is not None for x in (own.rank, own.max_rank, own.const_weight, own.lowered_to))
        for dims in maps(self.node):
            found = list[str]()
            if check_ranks and not own_rank and rules.rank is not None:
                found += ranks("", [dims], (rules.rank, rules.rank))
            batch = dims[:1] if len(dims) == 4 else ()
            for what, values, limit in (
                ("batch", batch, rules.max_batch),
                ("N is", batch, rules.max_n),
                ("dimension", dims, rules.max_dim),
                ("int8 tensor bytes", (prod(dims),), rules.max_tensor_bytes),
            ):
                found += at_most(what, values, limit) if limit is not None else ()
            if found:
                yield found[0]
                return

    def _of_conv(self) -> Iterator[str]:
        """Check a Gemm against the limits of the 1x1 convolution that the tool turns it into."""
        if not self.node.operand(1).constant:
            yield Unchecked("its weight is not a constant, so it cannot become a convolution")
            return
        conv = _Checks(self.node, self.table.ops["Conv"].constraints, self.table)
        yield from conv._check("kernel_nc")
        yield from conv._check("max_kernel_volume")
        if self.limits.max_channels_hw1 is None:
            yield from conv._check("max_channels_per_group")

    def _all(self, only: frozenset[str]) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield each check with a name for what it lacks."""
        for name in self.limits.given():
            if name in CHECKS & only:
                yield name, self._check(name)
        yield "the march's general limits", self._general(check_ranks="rank" in only)
        if self.node.op == "Gemm" and self.limits.lowered_to == "Conv" and self.table.complete:
            yield "the limits of Conv", self._of_conv()


def _is_global(node: NodeView) -> bool:
    return node.features[0].dims[2:] == kernel(node)


def _tiles(node: NodeView) -> bool:
    """Return whether the windows do not overlap."""
    return strides(node) == kernel(node) or _is_global(node)


def _has_small_factors(n: int) -> bool:
    """Return whether no prime above 7 divides ``n``: then ``n`` divides a power of 2 * 3 * 5 * 7."""
    return pow(2 * 3 * 5 * 7, n.bit_length(), n) == 0


def _fits(rule: Rule, *shapes: Dims) -> bool:
    """Return whether shapes match patterns as in ``1CHW*1C11``: a letter is one size wherever it occurs."""
    sizes = {"1": 1}
    return all(
        len(dims) == len(pattern) and all(sizes.setdefault(c, n) == n for c, n in zip(pattern, dims, strict=True))
        for pattern, dims in zip(re.split("[*+]", rule), shapes, strict=True)
    )


_RULES = frozenset(name for name in vars(_Checks) if not name.startswith("_"))
CHECKS = _RULES | set(MEASURES)
_SIZES = """
max_channels max_channels_per_group max_channels_hw1 max_hw h w max_first_dim max_dim max_axis max_mkn max_kn_many_rows
max_other_dim kernel_nc kernel_hw kernel max_kernel_volume stride stride_in stride_order dilation dilation_gt1 pad
output_padding
"""
SIZE_LIMITS = frozenset(_SIZES.split())
"""Limits on sizes, which the measured placement of a smaller node does not cover."""


def check_limits(
    node: NodeView, fact: OpFact, table: OpTable, only: frozenset[str] = CHECKS
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how ``node`` violates the limits of ``fact`` and the march's general ones, and which cannot be checked.

    Args:
        only: names of the limits to check; all by default.
    """
    found: dict[str, None] = {}
    for name, check in _Checks(node, fact.constraints, table)._all(only):
        try:
            found |= dict.fromkeys(check)
        except UnknownValue as reason:
            found[Unchecked(f"{name}: {reason}")] = None
    unchecked = tuple(t for t in found if isinstance(t, Unchecked))
    return tuple(t for t in found if not isinstance(t, Unchecked)), unchecked
