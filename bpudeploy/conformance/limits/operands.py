"""Limits on what meets what: feature maps and constants, broadcasts, matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from bpudeploy.conformance.limits.base import (
    Case,
    Check,
    Finding,
    at_most,
    broken,
    operand,
    shape,
    text,
    unchecked,
    volume,
)
from bpudeploy.conformance.table import Rule

Dims = tuple[int, ...]


def _both_maps(case: Case) -> Iterator[Finding]:
    if case.node.constants:
        yield broken("one operand is a constant, both must be feature maps")


def _operands(case: Case) -> Iterator[Finding]:
    if case.node.constants:
        yield unchecked("the list speaks of two feature maps; with a constant the tool may make a Conv of it")


def _shapes(case: Case) -> Iterator[Finding]:
    """Which pairs of 4-D shapes may meet, as the list writes them; either operand may be the smaller one."""
    allowed = case.limits.shapes
    if allowed is Rule.AS_MUL:
        allowed = case.table.ops["Mul"].constraints.shapes or ()
    if not isinstance(allowed, tuple) or not allowed:
        yield from _any_shapes(case)
        return
    a, b = (shape(operand(case, i)) for i in (0, 1))
    if not any(_fits(rule, x, y) for rule in allowed for x, y in ((a, b), (b, a))):
        yield broken(f"{text(a)} with {text(b)}, it must be {' or '.join(allowed)}")


def _any_shapes(case: Case) -> Iterator[Finding]:
    a, b = (shape(operand(case, i)) for i in (0, 1))
    if a != b:
        yield unchecked(f"{text(a)} with {text(b)}: the list says only that the shapes are as for Mul")


def _fits(rule: Rule, a: Dims, b: Dims) -> bool:
    if len(a) != 4 or len(b) != 4:
        return False
    if rule in (Rule.MUL_SAME, Rule.MUL_CHANNEL, Rule.MUL_NUMBER) and a[0] != 1:
        return False
    if rule in (Rule.ADD_SAME, Rule.MUL_SAME):
        return a == b
    if rule in (Rule.ADD_CHANNEL, Rule.MUL_CHANNEL):
        return b == (a[0], a[1], 1, 1)
    return rule is Rule.MUL_NUMBER and b == (1, 1, 1, 1)


def _nonzero(case: Case) -> Iterator[Finding]:
    for tensor in case.node.constants:
        if tensor.values is None:
            yield unchecked("its constant must not be 0: the weights are not at hand")
        elif not tensor.values.all():
            yield broken("its constant holds a 0, which it must not")
    if case.node.features:
        yield unchecked("values must not be 0: that depends on the image")


def _broadcast(case: Case) -> Iterator[Finding]:
    rule = case.limits.broadcast
    tensors = [shape(t) for t in case.node.inputs if t is not None]
    if case.node.op == "MatMul":
        yield from _matmul_broadcast(tensors)
        return
    out = shape(case.node.outputs[0])
    if rule is Rule.ONE_SIDE and out not in tensors:
        yield broken(f"{' with '.join(map(text, tensors))}: both sides are broadcast, only one may be")
    if rule is Rule.TWO_WAY_MERGED and len(out) > 4 and len(set(tensors)) > 1:
        yield unchecked(f"{' with '.join(map(text, tensors))}: above 4-D the dimensions must be mergeable")


def _matmul_broadcast(tensors: list[Dims]) -> Iterator[Finding]:
    a, b = tensors[0][:-2], tensors[1][:-2]
    if len(a) == len(b):
        whole = tuple(map(max, a, b))
        if whole not in (a, b):
            yield broken(f"{text(tensors[0])} by {text(tensors[1])}: both sides are broadcast, only one may be")


def _const_inputs(case: Case) -> Iterator[Finding]:
    count, limit = len(case.node.constants), case.limits.max_const_inputs
    assert limit is not None
    if count > limit:
        yield broken(f"{count} operands are constants, the limit is {limit}")


def _same_rank(case: Case) -> Iterator[Finding]:
    a, b = (shape(operand(case, i)) for i in (0, 1))
    if len(a) != len(b):
        yield broken(f"{text(a)} by {text(b)}, both must have the same rank")


def _mkn(case: Case) -> Iterator[Finding]:
    limit = case.limits.max_mkn
    assert limit is not None
    if not case.node.constants:
        yield from at_most("K is", shape(operand(case, 0))[-1], limit)


def _many_rows(case: Case) -> Iterator[Finding]:
    limit = case.limits.max_kn_many_rows
    assert limit is not None
    a, b = operand(case, 0), operand(case, 1)
    if b.constant and len(shape(b)) == 2 and len(shape(a)) > 1 and volume(shape(a)[:-1]) > 1:
        yield from at_most("with more than one row, K is", shape(b)[0], limit[0])
        yield from at_most("with more than one row, N is", shape(b)[1], limit[1])


def _other_dims(case: Case) -> Iterator[Finding]:
    limit = case.limits.max_other_dim
    assert limit is not None
    others = [n for i in (0, 1) for n in shape(operand(case, i))[:-2]]
    if others and max(others) > limit:
        yield broken(f"dimension {max(others)} before the matrices, the limit is {limit}")


def _const_weight(case: Case) -> Iterator[Finding]:
    """A product with a constant: K, MxK, ... AxBxMxK by KxN."""
    if not case.node.constants:
        return
    a, b = operand(case, 0), operand(case, 1)
    if not b.constant:
        yield unchecked("the constant is the left operand; the list gives forms with a constant right one")
        return
    left, right = shape(a), shape(b)
    if len(left) > 4:
        yield broken(f"{text(left)} by a constant, it must have 4 dimensions or less")
    elif len(right) != 2:
        yield unchecked(f"a constant of shape {text(right)}; the list gives forms with KxN")


def _two_maps(case: Case) -> Iterator[Finding]:
    if case.node.constants:
        return
    a, b = (shape(operand(case, i)) for i in (0, 1))
    if not (len(a) == len(b) == 4 and a[0] == 1 and b[:2] == (1, 1)):
        yield broken(f"{text(a)} by {text(b)}, two feature maps multiply {Rule.MATMUL_FEATURE_MAPS}")


def _only_output(case: Case) -> Iterator[Finding]:
    if not case.node.gives_output:
        yield broken("it is not the network's output, which it must be")


def _as_conv(case: Case) -> Iterator[Finding]:
    return
    yield  # H = W = 1 has a limit of its own, and a Gemm never has another size


def _io(case: Case) -> Iterator[Finding]:
    yield unchecked(f"{case.limits.io}: the tool decides where its input comes from")


CHECKS: dict[str, Check] = {
    "both_featuremaps": _both_maps,
    "operands": _operands,
    "shapes": _shapes,
    "values_nonzero": _nonzero,
    "broadcast": _broadcast,
    "max_const_inputs": _const_inputs,
    "same_rank": _same_rank,
    "max_mkn": _mkn,
    "max_kn_many_rows": _many_rows,
    "max_other_dim": _other_dims,
    "const_weight": _const_weight,
    "two_featuremaps": _two_maps,
    "only_graph_output": _only_output,
    "hw_le_7": _as_conv,
    "io": _io,
}
