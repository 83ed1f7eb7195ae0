"""The cost of a node, counted from shapes: multiply-accumulates, other arithmetic, bytes. Never a time."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from bpudeploy.conformance.graph import NodeView, Tensor, read_graph
from bpudeploy.conformance.report import Cost
from bpudeploy.spec.operators import MOVES

if TYPE_CHECKING:
    import onnx

_NO_ARITHMETIC = MOVES | {"Cast", "Shape", "Constant"}
_PASSES = {
    "Softmax": 5,
    "LogSoftmax": 5,
    "LayerNormalization": 8,
    "InstanceNormalization": 8,
    "Gelu": 4,
    "HardSwish": 3,
}
"""Passes over every element by an operator that the tools decompose (see the notes of the tables)."""


def cost_of(node: NodeView) -> Cost:
    """Return the node's cost; a tensor of unknown shape counts as 0."""
    if node.folded:
        return Cost()
    macs = _macs(node)
    return Cost(
        macs=macs,
        element_ops=0 if macs else _element_ops(node),
        bytes_read=sum(map(_size, node.features)),
        bytes_written=sum(map(_size, node.outputs)),
        weight_bytes=sum(map(_size, node.constants)) if macs or node.op not in _NO_ARITHMETIC else 0,
    )


def multiply_accumulates(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiply-accumulates of each node that has any."""
    counts = {node.name: cost_of(node).macs for node in read_graph(model)}
    return {name: count for name, count in counts.items() if count}


def _size(tensor: Tensor) -> int:
    return prod(tensor.shape) if tensor.shape is not None else 0


def _macs(node: NodeView) -> int:
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None or not node.outputs:
        return 0
    a, b, out = node.inputs[0], node.inputs[1], _size(node.outputs[0])
    if a.shape is None or b.shape is None:
        return 0
    if node.op == "Conv" and b.shape:
        return out * prod(b.shape[1:])
    if node.op == "ConvTranspose" and b.shape:
        return _size(a) * prod(b.shape[1:])
    if node.op == "MatMul" and a.shape:
        return out * a.shape[-1]
    if node.op == "Gemm" and len(a.shape) == 2:
        return out * a.shape[0 if node.attributes.get("transA", 0) else 1]
    return 0


def _element_ops(node: NodeView) -> int:
    if node.op in _NO_ARITHMETIC:
        return 0
    read, written = sum(map(_size, node.features)), sum(map(_size, node.outputs))
    if node.op in ("MaxPool", "AveragePool"):
        return written * prod(int(k) for k in node.attributes.get("kernel_shape", [1]))
    return max(read if node.op.startswith(("Reduce", "Global", "Arg")) else 0, written) * _PASSES.get(node.op, 1)
