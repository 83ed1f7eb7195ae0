"""Limits on operands: feature maps and constants, broadcasts, matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from bpudeploy.conformance.limits.base import (
    Case,
    Check,
    LimitFinding,
    at_most,
    broken,
    operand,
    shape,
    text,
    unchecked,
)
from bpudeploy.conformance.table import Range, Rule

Dims = tuple[int, ...]


def _pair(case: Case) -> tuple[Dims, Dims]:
    """Return the shapes of the two operands."""
    return shape(operand(case, 0)), shape(operand(case, 1))


def _both_maps(case: Case, _: bool) -> Iterator[LimitFinding]:
    if case.node.constants:
        yield broken("one operand is a constant, both must be feature maps")


def _operands(case: Case, _: Rule) -> Iterator[LimitFinding]:
    if case.node.constants:
        yield unchecked("the list covers two feature maps; the tool may turn an operator with a constant into a Conv")


def _shapes(case: Case, allowed: tuple[Rule, ...] | Rule) -> Iterator[LimitFinding]:
    """Check which 4-D shapes may be combined, as the list writes them; either operand may be the smaller one."""
    rules = case.table.ops["Mul"].constraints.shapes if allowed is Rule.AS_MUL else allowed
    a, b = _pair(case)
    if not isinstance(rules, tuple) or not rules:
        if a != b:
            yield unchecked(f"{text(a)} with {text(b)}: the list only says that the shapes are as for Mul")
    elif not any(_fits(rule, x, y) for rule in rules for x, y in ((a, b), (b, a))):
        yield broken(f"{text(a)} with {text(b)}, must be {' or '.join(rules)}")


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


def _nonzero(case: Case, _: bool) -> Iterator[LimitFinding]:
    for tensor in case.node.constants:
        if tensor.values is None:
            yield unchecked("its constant must not be 0: the weights are not available")
        elif not tensor.values.all():
            yield broken("its constant contains a 0")
    if case.node.features:
        yield unchecked("values must not be 0: that depends on the image")


def _broadcast(case: Case, rule: Rule) -> Iterator[LimitFinding]:
    tensors = [shape(t) for t in case.node.inputs if t is not None]
    if case.node.op == "MatMul":
        a, b = tensors[0][:-2], tensors[1][:-2]
        if len(a) == len(b) and tuple(map(max, a, b)) not in (a, b):
            yield broken(f"{text(tensors[0])} by {text(tensors[1])}: both sides are broadcast, only one may be")
        return
    out, listed = shape(case.node.outputs[0]), " with ".join(map(text, tensors))
    if rule is Rule.ONE_SIDE and out not in tensors:
        yield broken(f"{listed}: both sides are broadcast, only one may be")
    if rule is Rule.TWO_WAY_MERGED and len(out) > 4 and len(set(tensors)) > 1:
        yield unchecked(f"{listed}: above 4-D the dimensions must be mergeable")


def _const_inputs(case: Case, limit: int) -> Iterator[LimitFinding]:
    yield from at_most("constant operands", len(case.node.constants), limit)


def _same_rank(case: Case, _: bool) -> Iterator[LimitFinding]:
    a, b = _pair(case)
    if len(a) != len(b):
        yield broken(f"{text(a)} by {text(b)}, both must have the same rank")


def _mkn(case: Case, limit: int) -> Iterator[LimitFinding]:
    if not case.node.constants:
        yield from at_most("K is", shape(operand(case, 0))[-1], limit)


def _many_rows(case: Case, limit: Range) -> Iterator[LimitFinding]:
    a, b = operand(case, 0), operand(case, 1)
    if b.constant and len(shape(b)) == 2 and len(shape(a)) > 1 and prod(shape(a)[:-1]) > 1:
        yield from at_most("with more than one row, K is", shape(b)[0], limit[0])
        yield from at_most("with more than one row, N is", shape(b)[1], limit[1])


def _other_dims(case: Case, limit: int) -> Iterator[LimitFinding]:
    yield from at_most("batch dimension", max((n for dims in _pair(case) for n in dims[:-2]), default=0), limit)


def _const_weight(case: Case, _: Rule) -> Iterator[LimitFinding]:
    """Check a product with a constant: K, MxK, ... AxBxMxK by KxN."""
    if not case.node.constants:
        return
    if not operand(case, 1).constant:
        yield unchecked("the left operand is the constant; the list only covers a constant right operand")
        return
    left, right = _pair(case)
    if len(left) > 4:
        yield broken(f"{text(left)} by a constant, must have 4 dimensions or less")
    elif len(right) != 2:
        yield unchecked(f"constant of shape {text(right)}; the list only covers KxN")


def _two_maps(case: Case, _: Rule) -> Iterator[LimitFinding]:
    if case.node.constants:
        return
    a, b = _pair(case)
    if not (len(a) == len(b) == 4 and a[0] == 1 and b[:2] == (1, 1)):
        yield broken(f"{text(a)} by {text(b)}, two feature maps multiply {Rule.MATMUL_FEATURE_MAPS}")


def _only_output(case: Case, _: bool) -> Iterator[LimitFinding]:
    if not case.node.is_graph_output:
        yield broken("only supported as the network's output")


def _io(case: Case, rule: Rule) -> Iterator[LimitFinding]:
    yield unchecked(f"{rule}: its producer is decided by the tool")


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
    "io": _io,
}
