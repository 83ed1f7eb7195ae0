"""The cost of a node, counted from shapes: multiply-accumulates, other arithmetic, bytes. Never a time."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

from bpudeploy.conformance.graph import NodeView, read_graph
from bpudeploy.conformance.report import Cost
from bpudeploy.spec.operators import MOVES

if TYPE_CHECKING:
    import onnx

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
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


class Product(NamedTuple):
    """A convolution or matrix product: in each group, ``columns`` numbers at ``positions``, each of ``depth`` products.

    ``depth`` is per position of the kernel, which has ``kernel_elements``.
    """

    positions: int
    groups: int
    columns: int
    depth: int
    kernel_elements: int = 1

    @property
    def macs(self) -> int:
        return prod(self)


def cost_of(node: NodeView) -> Cost:
    """Return the node's cost; a tensor of unknown shape counts as 0."""
    if node.folded:
        return Cost()
    product = product_of(node)
    read, written, weights = (sum(t.size for t in ts) for ts in (node.features, node.outputs, node.constants))
    return Cost(
        macs=product.macs if product else 0,
        element_ops=0 if product and product.macs else _element_ops(node, read, written),
        bytes_read=read,
        bytes_written=written,
        weight_bytes=weights if product or node.op not in _NO_ARITHMETIC else 0,
    )


def multiply_accumulates(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiply-accumulates of each node that has any."""
    return {n.name: p.macs for n in read_graph(model) if not n.folded and (p := product_of(n)) and p.macs}


def product_of(node: NodeView) -> Product | None:
    """Return the sizes of a convolution or matrix product; None if they are unknown, and for other operators."""
    if node.op not in PRODUCTS or len(node.inputs) < 2 or not node.outputs:
        return None
    if any(t is None or t.shape is None for t in node.inputs[:2]):
        return None
    a, b, out = node.operand(0).dims, node.operand(1).dims, node.outputs[0].shape
    (groups,) = node.numbers("group", default=[1])
    if node.op == "ConvTranspose" and len(a) == len(b) > 2:
        return Product(a[0] * prod(a[2:]), groups, b[1], b[0] // groups, prod(b[2:]))
    if out is None:
        return None
    if node.op == "Conv" and len(out) == len(b) > 2:
        return Product(out[0] * prod(out[2:]), groups, out[1] // groups, b[1], prod(b[2:]))
    if (node.op == "MatMul" and a) or (node.op == "Gemm" and len(a) == 2):
        deep = a[0] if node.attributes.get("transA", 0) else a[-1]
        return Product(prod(out[:-1]), 1, prod(out[-1:]), deep)
    return None


def _element_ops(node: NodeView, read: int, written: int) -> int:
    if node.op in _NO_ARITHMETIC:
        return 0
    if node.op in ("MaxPool", "AveragePool"):
        return written * prod(node.numbers("kernel_shape", default=[1]))
    return max(read if node.op.startswith(("Reduce", "Global", "Arg")) else 0, written) * _PASSES.get(node.op, 1)
