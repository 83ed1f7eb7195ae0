"""Every limit of a node, checked: what is broken, and what nobody can tell."""

from __future__ import annotations

from functools import partial

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.limits import axes, operands, sizes, windows
from bpudeploy.conformance.limits.base import Case, Check, Finding, NotKnown, unchecked
from bpudeploy.conformance.table import OpFact, OpTable

CHECKS: dict[str, Check] = {**sizes.CHECKS, **windows.CHECKS, **axes.CHECKS, **operands.CHECKS}
WITH_ANOTHER = {
    "max_channels_plain": "max_channels_per_group",
    "torch_axis": "onnx_axis",
    "axes_hw_together": "n_axes",
}
"""Limits that the check of another one reads."""
NO_LIMITS = frozenset({"enable", "lowered_to", "parts", "note"})
"""Fields that say something of the operator and limit nothing."""


OF_SIZE = frozenset((*sizes.CHECKS, *windows.CHECKS, "max_axis", "max_mkn", "max_kn_many_rows", "max_other_dim")) - {
    "rank",
    "max_rank",
}
"""Limits on numbers, which a measured placement of a smaller node says nothing of."""


def findings(node: NodeView, fact: OpFact, table: OpTable, only: frozenset[str] | None = None) -> tuple[Finding, ...]:
    """Return every limit of ``fact``, and of the march in general, that ``node`` breaks or that cannot be checked.

    Args:
        only: the limits to look at, by name; all when left out.
    """
    case = Case(node, fact.constraints, table)
    given = [name for name in fact.constraints.given() if only is None or name in only]
    checks = {name: CHECKS[name] for name in given if name in CHECKS}
    checks["the march's general limits"] = partial(sizes.general, ranks=only is None)
    if node.op == "Gemm" and fact.constraints.lowered_to == "Conv" and table.complete:
        checks["the limits of Conv"] = windows.lowered_gemm
    found: dict[Finding, None] = {}
    for name, check in checks.items():
        try:
            found |= dict.fromkeys(check(case))
        except NotKnown as why:
            found[unchecked(f"{name}: {why}")] = None
    return tuple(found)
