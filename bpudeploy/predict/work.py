"""What a graph asks of a march, node by node, counted from shapes: amounts of each term, no time yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from bpudeploy.conformance.graph import NodeView, Tensor, read_graph
from bpudeploy.conformance.placement import place_nodes
from bpudeploy.conformance.report import Device, Form
from bpudeploy.conformance.segments import bpu_segments
from bpudeploy.predict.lowering import runs_on_bpu
from bpudeploy.predict.march import Array, Term
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import onnx

_VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout"))
_MOVED = """
Transpose Slice Split Concat Gather GatherND Expand Tile Pad DepthToSpace SpaceToDepth Resize Upsample ScatterND
"""
_MOVES = frozenset(_MOVED.split())
_FREE = frozenset(("BatchNormalization", "Relu", "Clip"))
"""Folded into the convolution or sum before it."""
_NUMBER_BY_NUMBER = """
Add Sub Mul Div Relu Clip LeakyRelu Sigmoid Tanh Erf Gelu HardSigmoid HardSwish Exp Pow Sqrt Reciprocal Softplus Log
Abs Neg Mish BatchNormalization Max Min
"""
_OF_ONE = frozenset(_NUMBER_BY_NUMBER.split())
"""A chain of these with one tensor as its only feature is one table look-up (HzLut in the vendor's logs)."""
_PASSES = {"Softmax": (4, 6), "LayerNormalization": (6, 8), "InstanceNormalization": (6, 8)}
"""Operators that the tools take apart: how often their bytes are read and written, and into how many nodes."""


class Work(Frozen):
    """One node. ``feeds_product``: what it makes goes into a Conv or MatMul, itself or as a view.

    ``amounts`` are for int8, in the unit of each term; a node that is folded into a neighbour has none.
    """

    name: str
    op: str
    segment: int | None
    """The BPU subgraph that it is in, None on the CPU."""
    product: str | None
    """"Conv" or "MatMul", by which a march says what it takes; None for everything else."""
    feeds_product: bool
    amounts: dict[Term, float]

    @property
    def on_bpu(self) -> bool:
        """Whether the BPU runs it."""
        return self.segment is not None


class Workload(Frozen):
    """A graph on a march."""

    march: March
    form: Form
    nodes: tuple[Work, ...]
    segments: int
    """BPU subgraphs."""

    def total(self, term: Term) -> float:
        """Return the sum of one term's amounts, in its unit."""
        return sum(n.amounts.get(term, 0.0) for n in self.nodes)


def workload(
    model: onnx.ModelProto,
    march: March,
    array: Array,
    constants: Collection[str] = (),
    form: Form = Form.RESTRUCTURED,
    *,
    trained: bool = True,
) -> Workload:
    """Return what ``model`` asks of ``march``, for int8; the arguments are those of ``placement``."""
    nodes = read_graph(model, constants, trained=trained)
    placed = place_nodes(model, nodes, march, constants, form).nodes
    on_bpu = [runs_on_bpu(n, p, march) for n, p in zip(nodes, placed, strict=True)]
    cut = bpu_segments(nodes, on_bpu)
    fed = _feeding(nodes)
    reader = _Reader(nodes, on_bpu, array)
    works = []
    for i, (node, at) in enumerate(zip(nodes, placed, strict=True)):
        if at.device is Device.FOLDED:
            continue
        amounts = reader.bpu(i) if on_bpu[i] else _cpu(node, at.cost.macs)
        if cut.crossing_inputs.get(i):
            amounts[Term.HANDOVER] = float(cut.crossing_inputs[i])
        if node.is_graph_output:
            amounts[Term.OUTPUT] = sum(map(_size, node.outputs)) / 1e6
        works.append(
            Work(
                name=node.name,
                op=node.op,
                segment=cut.segment_of.get(i),
                product=_product(node),
                feeds_product=any(t.name in fed for t in node.outputs),
                amounts={t: a for t, a in amounts.items() if a},
            )
        )
    return Workload(march=march, form=form, nodes=tuple(works), segments=cut.count)


def _product(node: NodeView) -> str | None:
    if node.op in ("Conv", "ConvTranspose", "Gemm") or (node.op == "MatMul" and node.constants):
        return "Conv"
    return "MatMul" if node.op == "MatMul" else None


def _feeding(nodes: Sequence[NodeView]) -> set[str]:
    """Return the tensors that go into products, themselves or through views and moves."""
    fed: set[str] = set()
    for node in reversed(nodes):
        through = node.op in _VIEWS | _MOVES and any(t.name in fed for t in node.outputs)
        if _product(node) or through:
            fed |= {t.name for t in node.features}
    return fed


def _cpu(node: NodeView, macs: int) -> dict[Term, float]:
    return {Term.CPU_BYTES: _moved(node), Term.CPU_MACS: macs / 1e9}


@dataclass
class _Reader:
    """What is known while the nodes on the BPU are read in order."""

    nodes: Sequence[NodeView]
    on_bpu: Sequence[bool]
    array: Array
    maker: dict[str, NodeView] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    """Tensor to the one tensor that it is a function of, number by number."""
    looked_up: set[str] = field(default_factory=set)
    """Roots whose look-up has been counted."""

    def __post_init__(self) -> None:
        self.maker = {t.name: n for n in self.nodes if not n.folded for t in n.outputs}

    def bpu(self, i: int) -> dict[Term, float]:
        node = self.nodes[i]
        product = _product(node)
        if product == "MatMul":
            return {
                Term.COMPUTE: _matmul(node, self.array),
                Term.ATTENTION: _moved(node),
                Term.INSTRUCTIONS: 1,
            }
        if product is not None:
            macs = _matmul(node, self.array) if node.op in ("MatMul", "Gemm") else _conv(node, self.array)
            return {Term.COMPUTE: macs, Term.WEIGHTS: _weights(node), Term.INSTRUCTIONS: 1}
        if node.op in _VIEWS:
            return {Term.INSTRUCTIONS: 1}
        if node.op in _MOVES:
            return {Term.LAYOUT: _moved(node), Term.INSTRUCTIONS: 1}
        if node.op in _OF_ONE and self._folded(node):
            return {}
        passes, made_of = _PASSES.get(node.op, (1, 1))
        term = Term.ATTENTION if node.op == "Softmax" else Term.ELEMENTWISE
        return {term: passes * _moved(node), Term.INSTRUCTIONS: made_of}

    def _folded(self, node: NodeView) -> bool:
        """Return whether ``node`` costs nothing: in the convolution before it, or in a look-up that is counted."""
        roots = {self.roots.get(t.name, t.name) for t in node.features}
        if len(roots) != 1:
            return False
        (root,) = roots
        for made in node.outputs:
            self.roots[made.name] = root
        before = self.maker.get(root)
        if node.op in _FREE and before is not None and (_product(before) or before.op in ("Add", "BatchNormalization")):
            return True
        counted = root in self.looked_up
        self.looked_up.add(root)
        return counted


def _size(tensor: Tensor | None) -> int:
    return prod(tensor.shape) if tensor is not None and tensor.shape is not None else 0


def _moved(node: NodeView) -> float:
    """Return the MB that a node reads and writes at int8."""
    return (sum(map(_size, node.features)) + sum(map(_size, node.outputs))) / 1e6


def _weights(node: NodeView) -> float:
    return sum(map(_size, node.constants)) / 1e6


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


def _conv(node: NodeView, array: Array) -> float:
    """Return the GMACs that the array spends on a convolution.

    Input channels of a group and all output channels are rounded up to the array: so a depthwise convolution
    uses one of its ``channels_in`` rows.
    """
    weight, out = node.inputs[1], node.outputs[0].shape
    if weight is None or weight.shape is None or out is None or len(out) < 3:
        return 0.0
    groups = int(node.attributes.get("group", 1))
    if node.op == "ConvTranspose":
        given = node.inputs[0]
        shape = given.shape if given is not None else None
        if shape is None:
            return 0.0
        positions, channels, makes = prod(shape[2:]), weight.shape[0] // groups, weight.shape[1] * groups
    else:
        positions, channels, makes = prod(out[2:]), weight.shape[1], out[1]
    each = makes // groups
    columns = groups * _up(each, array.channels_out) if each >= array.channels_out else _up(makes, array.channels_out)
    return out[0] * positions * columns * _up(channels, array.channels_in) * prod(weight.shape[2:]) / 1e9


def _matmul(node: NodeView, array: Array) -> float:
    a, out = node.inputs[0], node.outputs[0].shape
    if a is None or not a.shape or not out:
        return 0.0
    deep = a.shape[0] if node.attributes.get("transA", 0) else a.shape[-1]
    return prod(out[:-1]) * _up(out[-1], array.channels_out) * _up(deep, array.channels_in) / 1e9
