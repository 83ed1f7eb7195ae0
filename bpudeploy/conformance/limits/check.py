"""Check a node against every limit of its operator."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from bpudeploy.conformance.graph import NodeView, UnknownValue
from bpudeploy.conformance.limits.measures import MEASURES, Unchecked, at_most, maps, ranks
from bpudeploy.conformance.limits.rules import RULES, Case
from bpudeploy.conformance.table import OpFact, OpTable, Rule

CHECKS = frozenset((*MEASURES, *RULES))
CHECKED_WITH = {
    "max_channels_plain": "max_channels_per_group",
    "torch_axis": "onnx_axis",
    "axes_hw_together": "n_axes",
    "hw_le_7": "max_channels_hw1",  # only a Gemm has it, whose H and W are 1
}
"""Limits that the check of another limit covers."""
NOT_LIMITS = frozenset({"enable", "lowered_to", "parts", "note"})
"""Fields that describe the operator and restrict nothing."""
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
    limits = fact.constraints
    case = Case(node, limits, table)
    checks = {name: _check(name, case, getattr(limits, name)) for name in limits.given() if name in CHECKS & only}
    checks["the march's general limits"] = _general(case, check_ranks="rank" in only)
    if node.op == "Gemm" and limits.lowered_to == "Conv" and table.complete:
        checks["the limits of Conv"] = _lowered_gemm(case)
    found: dict[str, None] = {}
    for name, check in checks.items():
        try:
            found |= dict.fromkeys(check)
        except UnknownValue as reason:
            found[Unchecked(f"{name}: {reason}")] = None
    unchecked = tuple(t for t in found if isinstance(t, Unchecked))
    return tuple(t for t in found if t not in unchecked), unchecked


def _check(name: str, case: Case, limit: Any) -> Iterator[str]:
    """Yield how the node violates one limit, or an Unchecked text."""
    if limit is Rule.ANY:
        return
    if name not in MEASURES or (isinstance(limit, Rule) and name in RULES):
        yield from RULES[name](case, limit)
    else:
        compare, what, measure = MEASURES[name]
        yield from compare(what, tuple(measure(case.node)), limit)


def _general(case: Case, *, check_ranks: bool) -> Iterator[str]:
    """Yield the first violation of what applies to every tensor on this BPU; without ``check_ranks``, of sizes only."""
    rules, limits = case.table.general, case.limits
    if not case.table.complete:
        return
    own_rank = any(x is not None for x in (limits.rank, limits.max_rank, limits.const_weight, limits.lowered_to))
    for dims in maps(case.node):
        batch = dims[:1] if len(dims) == 4 else ()
        bounds = [
            ("batch", batch, rules.max_batch),
            ("N is", batch, rules.max_n),
            ("dimension", dims, rules.max_dim),
            ("int8 tensor bytes", (prod(dims),), rules.max_tensor_bytes),
        ]
        found = [v for what, values, limit in bounds if limit is not None for v in at_most(what, values, limit)]
        if check_ranks and not own_rank and rules.rank is not None:
            found = [*ranks("", [dims], (rules.rank, rules.rank)), *found]
        if found:
            yield found[0]
            return


def _lowered_gemm(case: Case) -> Iterator[str]:
    """Check a Gemm against the limits of the 1x1 convolution that the tool turns it into."""
    if not case.node.operand(1).constant:
        yield Unchecked("its weight is not a constant, so it cannot become a convolution")
        return
    conv = case.table.ops["Conv"].constraints
    names = ["kernel_nc", "max_kernel_volume"]
    if case.limits.max_channels_hw1 is None:
        names.append("max_channels_per_group")
    for name in names:
        if (limit := getattr(conv, name)) is not None:
            yield from _check(name, Case(case.node, conv, case.table), limit)
