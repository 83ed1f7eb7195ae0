"""Check the form required by a BPU: opset 11, static 4-D shapes, supported operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import shapes_of
from bpudeploy.restructure.write import IR_VERSION, OPSET

if TYPE_CHECKING:
    import onnx

FORBIDDEN = frozenset(
    {"Gemm", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization"}
)
"""Operators that the rewrite replaces."""


def form_errors(model: onnx.ModelProto) -> list[str]:
    """Return one line for each violation, naming the node.

    Ranks are those of node outputs by ONNX shape inference; constants may have any rank.
    """
    import onnx

    found = [
        f"opset {e.version} of {e.domain or 'onnx'!r}" for e in model.opset_import if e.domain or e.version != OPSET
    ]
    if model.ir_version > IR_VERSION:
        found.append(f"IR version {model.ir_version}, above {IR_VERSION}")
    shapes = shapes_of(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph)
    for node in model.graph.node:
        if node.op_type in FORBIDDEN:
            found.append(f"{node.name}: operator {node.op_type}")
        for output in node.output:
            shape = shapes.get(output)
            if shape is None or len(shape) != 4 or 0 in shape:
                found.append(f"{node.name}: output of shape {shape}")
    return found


def check_form(model: onnx.ModelProto) -> None:
    """Raise StageError with the first few violations, if any."""
    found = form_errors(model)
    if found:
        raise StageError(
            f"the rewritten graph has {len(found)} nodes that no BPU supports: {'; '.join(found[:5])}",
            hint="this is a bug in the rewrite; report the model's name",
        )
