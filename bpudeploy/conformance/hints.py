"""What would help a node that is not on the BPU: a rewrite, an option of ours or of the compiler, or nothing."""

from __future__ import annotations

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.report import Fix, Form, Hint
from bpudeploy.conformance.table import Default, OnBoard, OpFact, OpTable
from bpudeploy.spec.operators import LAYOUT_CHANGES

_TAKEN_IN = """
LayerNormalization GroupNormalization InstanceNormalization BatchNormalization Gemm Einsum Gelu HardSwish Mish Where Neg
Squeeze Unsqueeze Flatten Split Gather Identity Cast ReduceMean ReduceSum ReduceMax Pow Expand Div Clip Pad Tile Reshape
Transpose MatMul Add Sub Mul Concat Slice Softmax Sqrt Erf
"""
_REWRITTEN = frozenset(_TAKEN_IN.split())
"""What the rewrite to 4-D takes in; whether the result lands on the BPU, `inspect` of the restructured graph says."""


def hint_for(node: NodeView, fact: OpFact | None, broken: bool, table: OpTable, form: Form) -> Hint | None:
    """Return what would help a node that is not on the BPU.

    Args:
        broken: it breaks a limit of its operator.
    """
    if fact is not None and not broken and _can_be_asked(fact):
        return Hint(fix=Fix.ASK, text=f"{fact.constraints.enable}")
    if form is Form.ORIGINAL and node.op in _REWRITTEN:
        return Hint(
            fix=Fix.RESTRUCTURE, text="the restructured form has other operators there: inspect without --original"
        )
    if not table.complete:
        return None
    return _none_known(node, fact, table)


def _can_be_asked(fact: OpFact) -> bool:
    return (
        fact.device is OnBoard.CONDITIONAL
        and fact.default_placement is Default.CPU
        and fact.constraints.enable is not None
    )


def _none_known(node: NodeView, fact: OpFact | None, table: OpTable) -> Hint:
    if node.op == "MatMul" and not node.constants:
        return Hint(fix=Fix.NONE, text="of attention heads: no rewrite makes them fit this BPU")
    if node.op in LAYOUT_CHANGES:
        return Hint(fix=Fix.NONE, text="layout changes: no rewrite; the tool folds some away")
    if node.op == "Softmax":
        return Hint(fix=Fix.NONE, text="inside a network this BPU has none")
    if node.op == "Sub" and fact is not None and fact.device is OnBoard.CPU:
        return Hint(fix=Fix.NONE, text="no rewrite yet; x - mean(x) could be one 1x1 convolution")
    if node.op in ("Add", "Div") and node.constants:
        return Hint(fix=Fix.NONE, text="of a constant: no rewrite beyond what is folded into convolutions")
    return Hint(fix=Fix.NONE, text="no rewrite and no option known")
