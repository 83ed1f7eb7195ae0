"""Check a node against every limit of its operator."""

from __future__ import annotations

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.limits import axes, operands, sizes, windows
from bpudeploy.conformance.limits.base import Case, Check, LimitFinding, UnknownValue, unchecked
from bpudeploy.conformance.table import OpFact, OpTable

CHECKS: dict[str, Check] = {**sizes.CHECKS, **windows.CHECKS, **axes.CHECKS, **operands.CHECKS}
CHECKED_WITH = {
    "max_channels_plain": "max_channels_per_group",
    "torch_axis": "onnx_axis",
    "axes_hw_together": "n_axes",
    "hw_le_7": "max_channels_hw1",  # only a Gemm has it, whose H and W are 1
}
"""Limits that the check of another limit covers."""
NOT_LIMITS = frozenset({"enable", "lowered_to", "parts", "note"})
"""Fields that describe the operator and restrict nothing."""
SIZE_LIMITS = frozenset(
    (*sizes.CHECKS, *windows.CHECKS, "max_axis", "max_mkn", "max_kn_many_rows", "max_other_dim")
) - {"rank", "max_rank"}
"""Limits on sizes, which the measured placement of a smaller node does not cover."""


def check_limits(
    node: NodeView, fact: OpFact, table: OpTable, only: frozenset[str] | None = None
) -> tuple[LimitFinding, ...]:
    """Return the limits of ``fact``, and the march's general ones, that ``node`` violates or that cannot be checked.

    Args:
        only: names of the limits to check; all by default.
    """
    limits = fact.constraints
    case = Case(node, limits, table)
    given = [name for name in limits.given() if name in CHECKS and (only is None or name in only)]
    checks = {name: CHECKS[name](case, getattr(limits, name)) for name in given}
    checks["the march's general limits"] = sizes.general(case, ranks=only is None)
    if node.op == "Gemm" and limits.lowered_to == "Conv" and table.complete:
        checks["the limits of Conv"] = windows.lowered_gemm(case)
    found: dict[LimitFinding, None] = {}
    for name, check in checks.items():
        try:
            found |= dict.fromkeys(check)
        except UnknownValue as reason:
            found[unchecked(f"{name}: {reason}")] = None
    return tuple(found)
