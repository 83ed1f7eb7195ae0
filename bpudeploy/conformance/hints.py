"""What would help a node that is not on the BPU: a rewrite, a compiler option, or nothing known."""

from __future__ import annotations

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.report import Fix, Form, Hint
from bpudeploy.conformance.table import OpFact, OpTable, Support
from bpudeploy.spec.operators import LAYOUT_CHANGES

_REWRITABLE = """
LayerNormalization GroupNormalization InstanceNormalization BatchNormalization Gemm Einsum Gelu HardSwish Mish Where Neg
Squeeze Unsqueeze Flatten Split Gather Identity Cast ReduceMean ReduceSum ReduceMax Pow Expand Div Clip Pad Tile Reshape
Transpose MatMul Add Sub Mul Concat Slice Softmax Sqrt Erf
"""
_REWRITTEN = frozenset(_REWRITABLE.split())
"""Operators that the rewrite to 4-D supports. Placement of the restructured graph shows what runs on the BPU."""


def hint_for(node: NodeView, fact: OpFact | None, broken: bool, table: OpTable, form: Form) -> Hint | None:
    """Return what would help a node that is not on the BPU; ``broken``: it violates a limit of its operator."""
    optional = fact is not None and (fact.device, fact.default_placement) == (Support.CONDITIONAL, Support.CPU)
    if fact is not None and optional and not broken and fact.constraints.enable is not None:
        return Hint(fix=Fix.COMPILER_OPTION, text=fact.constraints.enable)
    if form is Form.ORIGINAL and node.op in _REWRITTEN:
        text = "the restructured form has other operators there: inspect without --original"
        return Hint(fix=Fix.RESTRUCTURE, text=text)
    return Hint(fix=Fix.NONE, text=_no_fix(node, fact)) if table.complete else None


def _no_fix(node: NodeView, fact: OpFact | None) -> str:
    if node.op == "MatMul" and not node.constants:
        return "two feature maps, as in attention: no rewrite makes them fit this BPU"
    if node.op in LAYOUT_CHANGES:
        return "layout changes: no rewrite; the tool folds some away"
    if node.op == "Softmax":
        return "not supported inside a network on this BPU"
    if node.op == "Sub" and fact is not None and fact.device is Support.CPU:
        return "no rewrite yet; x - mean(x) could become one 1x1 convolution"
    if node.op in ("Add", "Div") and node.constants:
        return "with a constant: no rewrite beyond folding it into convolutions"
    return "no rewrite and no option known"
