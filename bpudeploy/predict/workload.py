"""The work of a graph on a march, counted from shapes: the amount of each term by node, without times."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bpudeploy.conformance.cost import product_of
from bpudeploy.conformance.graph import NodeView, read_graph
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device, Form, NodePlacement
from bpudeploy.conformance.segments import bpu_segments
from bpudeploy.predict.march import MacArray, Term
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.operators import MOVES, NO_OPS, RESHAPES
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import onnx

_IN_PLACE = RESHAPES | NO_OPS | {"Cast"}
_COPIES = MOVES - _IN_PLACE | {"Resize", "Upsample"}
_FREE = frozenset(("BatchNormalization", "Relu", "Clip"))
"""Folded into the preceding convolution or sum."""
_ELEMENTWISE_OPS = """
Add Sub Mul Div Relu Clip LeakyRelu Sigmoid Tanh Erf Gelu HardSigmoid HardSwish Exp Pow Sqrt Reciprocal Softplus Log
Abs Neg Mish BatchNormalization Max Min
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_OPS.split())
"""A chain of these on a single feature tensor becomes one table look-up (HzLut in the vendor's logs)."""
_PASSES = {"Softmax": (4, 6), "LayerNormalization": (6, 8), "InstanceNormalization": (6, 8)}
"""Operators that the tools decompose: (passes over their bytes, number of nodes)."""


class NodeWorkload(Frozen):
    """One node. ``feeds_product``: a Conv or MatMul reads its output, directly or through views.

    ``amounts`` are for int8, in the unit of each term; empty for a node that is folded into a neighbour.
    """

    name: str
    op: str
    segment: int | None
    """Its BPU subgraph; None on the CPU."""
    product: str | None
    """The kind of product for precision rules: "Conv" or "MatMul"; None for other nodes."""
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
    nodes: tuple[NodeWorkload, ...]
    segments: int
    """Number of BPU subgraphs."""

    def total(self, term: Term) -> float:
        """Return the sum of one term's amounts, in its unit."""
        return sum(n.amounts.get(term, 0.0) for n in self.nodes)


def count_workload(
    model: onnx.ModelProto,
    march: March,
    array: MacArray,
    constants: Collection[str] = (),
    form: Form = Form.RESTRUCTURED,
    *,
    trained: bool = True,
) -> Workload:
    """Count the int8 work of ``model`` on ``march``; the arguments are those of ``placement``."""
    nodes = read_graph(model, constants, trained=trained)
    placed = placement(model, march, constants, form, nodes=nodes).nodes
    on_bpu = [_runs_on_bpu(n, p, march) for n, p in zip(nodes, placed, strict=True)]
    cut = bpu_segments(nodes, on_bpu)
    fed = _feeding(nodes)
    counter = _BpuCounter(nodes, array)
    works = []
    for i, (node, at) in enumerate(zip(nodes, placed, strict=True)):
        if at.device is Device.FOLDED:
            continue
        moved, weights = (at.cost.bytes_read + at.cost.bytes_written) / 1e6, at.cost.weight_bytes / 1e6
        if on_bpu[i]:
            amounts = counter.count(node, moved, weights)
        else:
            amounts = {Term.CPU_BYTES: moved, Term.CPU_MACS: at.cost.macs / 1e9}
        if cut.crossing_inputs.get(i):
            amounts[Term.HANDOVER] = float(cut.crossing_inputs[i])
        if node.is_graph_output:
            amounts[Term.OUTPUT] = at.cost.bytes_written / 1e6
        works.append(
            NodeWorkload(
                name=node.name,
                op=node.op,
                segment=cut.segment_of.get(i),
                product=_product(node),
                feeds_product=any(t.name in fed for t in node.outputs),
                amounts={t: a for t, a in amounts.items() if a},
            )
        )
    return Workload(march=march, form=form, nodes=tuple(works), segments=cut.count)


def _runs_on_bpu(node: NodeView, placed: NodePlacement, march: March) -> bool:
    """Return whether the compiled network runs ``node`` on the BPU, with softmax requested there.

    The vendor's lists consider each node separately, but the tools rewrite some nodes first; each exception is based on
    a published build log.

    - A node without public information counts as on the BPU: in the only published log of a ViT on nash, all are.
    - A node that can be placed on the BPU on request counts as requested, as in the vendor's own recipes.
    - A product with constant weights becomes a convolution between two layout changes (ViT log, hb_compile 3.3.22),
      and a Split into unequal parts becomes slices (YOLO11n logs on X5: no node on the CPU); not on X3.
    - A view at the end of the network costs nothing: it is folded away or removed by name.
    """
    if placed.device in (Device.BPU, Device.UNKNOWN) or placed.bpu_on_request:
        return True
    if node.op in RESHAPES and node.is_graph_output:
        return True
    if march is March.BERNOULLI2:
        return False
    return (node.op == "MatMul" and bool(node.constants)) or node.op == "Split"


def _product(node: NodeView) -> str | None:
    if node.op in ("Conv", "ConvTranspose", "Gemm") or (node.op == "MatMul" and node.constants):
        return "Conv"
    return "MatMul" if node.op == "MatMul" else None


def _feeding(nodes: Sequence[NodeView]) -> set[str]:
    """Return the tensors that products read, directly or through views and moves."""
    fed: set[str] = set()
    for node in reversed(nodes):
        through = node.op in _IN_PLACE | _COPIES and any(t.name in fed for t in node.outputs)
        if _product(node) or through:
            fed |= {t.name for t in node.features}
    return fed


class _BpuCounter:
    """Counts the nodes on the BPU, in graph order.

    ``roots`` maps a tensor to the single tensor that it is an elementwise function of; ``looked_up`` are the roots
    whose table look-up has been counted.
    """

    def __init__(self, nodes: Sequence[NodeView], array: MacArray) -> None:
        self.array = array
        self.producers = {t.name: n for n in nodes if not n.folded for t in n.outputs}
        self.roots: dict[str, str] = {}
        self.looked_up: set[str] = set()

    def count(self, node: NodeView, moved: float, weights: float) -> dict[Term, float]:
        """Return the amounts of a node that reads and writes ``moved`` MB, and has MB of ``weights``."""
        product = _product(node)
        if product is not None:
            data = {Term.ATTENTION: moved} if product == "MatMul" else {Term.WEIGHTS: weights}
            return {Term.COMPUTE: _on_array(node, self.array), **data, Term.INSTRUCTIONS: 1}
        if node.op in _IN_PLACE:
            return {Term.INSTRUCTIONS: 1}
        if node.op in _COPIES:
            return {Term.LAYOUT: moved, Term.INSTRUCTIONS: 1}
        if node.op in _ELEMENTWISE and self._folded(node):
            return {}
        passes, count = _PASSES.get(node.op, (1, 1))
        term = Term.ATTENTION if node.op == "Softmax" else Term.ELEMENTWISE
        return {term: passes * moved, Term.INSTRUCTIONS: count}

    def _folded(self, node: NodeView) -> bool:
        """Return whether ``node`` is free: part of the preceding convolution, or of a look-up already counted."""
        roots = {self.roots.get(t.name, t.name) for t in node.features}
        if len(roots) != 1:
            return False
        (root,) = roots
        for output in node.outputs:
            self.roots[output.name] = root
        before = self.producers.get(root)
        if node.op in _FREE and before is not None and (_product(before) or before.op in ("Add", "BatchNormalization")):
            return True
        counted = root in self.looked_up
        self.looked_up.add(root)
        return counted


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _on_array(node: NodeView, array: MacArray) -> float:
    """Return the GMACs of a product on the MAC array.

    The input channels of a group and all output channels are rounded up to the array size, so a depthwise convolution
    uses one of ``channels_in`` rows.
    """
    product = product_of(node)
    if product is None:
        return 0.0
    groups, each = product.groups, product.columns
    if each < array.channels_out:
        groups, each = 1, groups * each
    rounded = groups * _round_up(each, array.channels_out) * _round_up(product.depth, array.channels_in)
    return product.positions * rounded * product.kernel_elements / 1e9
