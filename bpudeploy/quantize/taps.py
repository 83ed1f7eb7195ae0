"""Where a restructured graph is quantized, and which nodes read which tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bpudeploy.onnxmodel import attribute, inputs_of, readers_of
from bpudeploy.spec.operators import SELECTIONS
from bpudeploy.spec.precision import Precision, PrecisionRules

if TYPE_CHECKING:
    import onnx

PRODUCTS = frozenset({"Conv", "MatMul"})
FUSED_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})
"""Activations that an accelerator fuses with the Conv or Add before it: the tensor between them is never stored."""
WIDE = ".wide"
_STRIDED = "strided depthwise Conv"
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""The operators that a QDQ graph adds to the float graph."""


@dataclass(frozen=True)
class QuantizationPoint:
    """One rounding: the tap ``name`` rounds ``tensor``, which is ``source`` or a view of it.

    ``readers``: the nodes that read the rounded values. ``products``: the Conv and MatMul nodes among those that read
    it directly or through a view.
    """

    name: str
    tensor: str
    source: str
    precision: Precision
    readers: tuple[str, ...]
    products: tuple[str, ...] = ()


@dataclass(frozen=True)
class Readers:
    """The readers of a tensor, directly or through views, as (tensor read, node): products, and all others."""

    products: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]
    views: tuple[str, ...]


class GraphIndex:
    """Lookup tables of a graph: the producer and the readers of each tensor, and what it is a view of."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = {node.name: node for node in graph.node}
        self.producers = {output: node for node in graph.node for output in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.inputs = [value.name for value in inputs_of(graph)]
        self.readers = readers_of(graph.node, lambda node: dict.fromkeys(node.input))
        self._views: dict[str, bool] = {}

    def is_view(self, node: onnx.NodeProto) -> bool:
        """Return whether a node only selects and moves values of one tensor.

        A Concat does if its inputs are views of one tensor, or zeros, which no rounding changes.
        """
        if node.op_type != "Concat":
            return node.op_type in SELECTIONS
        if node.name not in self._views:
            moved = [name for name in node.input if not self._is_zero(name)]
            self._views[node.name] = len({self.source(name) for name in moved}) == 1
        return self._views[node.name]

    def _is_zero(self, name: str) -> bool:
        from onnx import numpy_helper

        return name in self.constants and not numpy_helper.to_array(self.constants[name]).any()

    def source(self, tensor: str) -> str:
        """Return the tensor that ``tensor`` is a view of, or itself."""
        while tensor in self.producers and self.is_view(self.producers[tensor]):
            tensor = next(name for name in self.producers[tensor].input if not self._is_zero(name))
        return tensor

    def unrounded(self, tensor: str) -> str:
        """Return ``tensor`` of a QDQ graph before any rounding."""
        while tensor in self.producers and self.producers[tensor].op_type in ROUNDING:
            tensor = self.producers[tensor].input[0]
        return tensor

    def readers_through_views(self, tensor: str, products: Collection[str]) -> Readers:
        """Return the readers of ``tensor``; a network output counts as another reader with an empty node name."""
        found: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        views, todo = [], [tensor]
        while todo:
            name = todo.pop(0)
            if name in self.outputs:
                found[False].append((name, ""))
            for node in self.readers.get(name, ()):
                if self.is_view(node):
                    if node.name not in views:  # a Concat reads several views
                        views.append(node.name)
                        todo.append(node.output[0])
                else:
                    found[node.name in products].append((name, node.name))
        return Readers(tuple(found[True]), tuple(found[False]), tuple(views))


def feeds_activations_only(node: onnx.NodeProto, readers: Sequence[onnx.NodeProto]) -> bool:
    """Return whether ``node`` is a Conv or Add whose output only fused activations read: it is never stored."""
    return node.op_type in ("Conv", "Add") and bool(readers) and all(r.op_type in FUSED_ACTIVATIONS for r in readers)


def is_pointwise(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Return whether ``node`` is a 1x1 Conv with constant weights, without groups or padding: W x + b at each pixel."""
    if node.op_type != "Conv" or node.input[1] not in index.constants or any(attribute(node, "pads", [0])):
        return False
    return attribute(node, "group", 1) == 1 and tuple(index.constants[node.input[1]].dims[2:]) == (1, 1)


def reads_int16(index: GraphIndex, node: onnx.NodeProto, rules: PrecisionRules) -> bool:
    """Return whether the march has a form of ``node``, of a float or a QDQ graph, that reads int16."""
    if node.op_type in PRODUCTS and Precision.INT16 not in rules.allowed(node.op_type):
        return False
    return not _is_int8_only(index, node, rules)


def _is_int8_only(index: GraphIndex, node: onnx.NodeProto, rules: PrecisionRules) -> bool:
    kind = node.op_type
    if kind == "Conv" and attribute(node, "group", 1) > 1 and max(attribute(node, "strides", [1])) > 1:
        weights = index.constants.get(index.unrounded(node.input[1]))
        kind = _STRIDED if weights is not None and weights.dims[1] == 1 else kind
    return kind in rules.int8_only


def softmax_input(index: GraphIndex, node: onnx.NodeProto) -> int | None:
    """Return which input of a MatMul is a softmax, or a view of one: 0, 1, or None."""
    if node.op_type != "MatMul":
        return None
    producers = [index.producers.get(index.source(name)) for name in node.input]
    return next((i for i, node in enumerate(producers) if node is not None and node.op_type == "Softmax"), None)


def find_products(model: onnx.ModelProto, in_float: Collection[str]) -> tuple[str, ...]:
    """Return the names of the Conv and MatMul nodes with integer inputs."""
    return tuple(n.name for n in model.graph.node if n.op_type in PRODUCTS and n.name not in in_float)


def find_quantization_points(
    model: onnx.ModelProto,
    rules: PrecisionRules,
    in_float: Collection[str],
    int16: Sequence[str],
    small: Collection[str] = (),
) -> tuple[QuantizationPoint, ...]:
    """Return where ``model`` is quantized, in graph order.

    An input of a Conv or MatMul is int8. It is int16 if a pattern of ``int16`` matches its name, the operator that
    produces it (``op:Softmax``), a reader's name, ``last`` (a reader produces a network output) or ``small`` (all
    readers are), and if the march supports int16 for all its readers. Every other tensor has the precision
    ``rules.elsewhere``, or int8 if a reader, or a Resize that makes it, is of ``rules.int8_only``; a tensor that only
    fused activations read is never stored, so not rounded. If a tensor has both kinds of readers and their precisions
    differ, the others read the wide form (``NAME.wide``), and products read a narrowed form of it; with float32
    elsewhere, the others read the unrounded tensor.

    Args:
        in_float: nodes that the accelerator does not run in integers.
        small: the products that are too small for the cost of int16 to matter.
    """
    index = GraphIndex(model)
    products = frozenset(find_products(model, in_float))
    found: list[QuantizationPoint] = []
    computed = (name for node in index.nodes.values() if not index.is_view(node) for name in node.output)
    for tensor in (*index.inputs, *computed):
        readers = index.readers_through_views(tensor, products)
        wide = _precision_elsewhere(index, tensor, readers, rules, in_float)
        if readers.products:
            able = all(reads_int16(index, node, rules) for node in _nodes(index, readers))
            wanted = _matches(index, tensor, readers, int16, small) or _stays_wide(index, tensor, readers, wide)
            narrow = Precision.INT16 if able and wanted else Precision.INT8
            found += _product_points(tensor, readers, narrow, wide)
        elif wide is not Precision.FLOAT32:
            names = (*readers.views, *(node for _, node in readers.others if node))
            found.append(QuantizationPoint(tensor, tensor, tensor, wide, names))
    return tuple(found)


def _product_points(tensor: str, readers: Readers, narrow: Precision, wide: Precision) -> Iterator[QuantizationPoint]:
    products = tuple(dict.fromkeys(node for _, node in readers.products))
    others = tuple(node for _, node in readers.others if node)
    if not readers.others or wide is narrow:
        yield QuantizationPoint(tensor, tensor, tensor, narrow, (*readers.views, *products, *others), products)
        return
    if wide is not Precision.FLOAT32:
        yield QuantizationPoint(f"{tensor}{WIDE}", tensor, tensor, wide, (*readers.views, *others))
    for view in dict.fromkeys(name for name, _ in readers.products):
        mine = tuple(dict.fromkeys(node for name, node in readers.products if name == view))
        yield QuantizationPoint(view, view, tensor, narrow, mine, mine)


def _matches(index: GraphIndex, tensor: str, readers: Readers, patterns: Sequence[str], small: Collection[str]) -> bool:
    producer = index.producers.get(tensor)
    names = [tensor, *(node for _, node in readers.products), f"op:{producer.op_type}" if producer is not None else ""]
    if any(index.nodes[node].output[0] in index.outputs for _, node in readers.products):
        names.append("last")
    if all(node in small for _, node in readers.products):
        names.append("small")
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _stays_wide(index: GraphIndex, tensor: str, readers: Readers, wide: Precision) -> bool:
    """Return whether a tensor is int16 for all its readers, whatever is asked.

    hb_mapper 1.24.3 does that to an elementwise result that a product and a Reshape read: the norm in the last block of
    a ViT, whose queries are of the class token only.
    """
    producer = index.producers.get(tensor)
    if wide is not Precision.INT16 or producer is None or producer.op_type in PRODUCTS:
        return False
    direct = any(read == tensor for read, _ in readers.products)
    return direct and any(index.nodes[view].op_type == "Reshape" for view in readers.views)


def _precision_elsewhere(
    index: GraphIndex, tensor: str, readers: Readers, rules: PrecisionRules, in_float: Collection[str]
) -> Precision:
    """Return the precision in which nodes other than products read a tensor."""
    producer, nodes = index.producers.get(tensor), _nodes(index, readers)
    if producer is None or producer.name in in_float or not nodes:
        return Precision.FLOAT32
    if feeds_activations_only(producer, nodes):
        return Precision.FLOAT32
    resized = [producer] if producer.op_type == "Resize" else []  # the only one of them whose result is int8 too
    if rules.elsewhere is Precision.INT16 and any(_is_int8_only(index, node, rules) for node in [*resized, *nodes]):
        return Precision.INT8
    return rules.elsewhere


def _nodes(index: GraphIndex, readers: Readers) -> list[onnx.NodeProto]:
    return [index.nodes[name] for _, name in (*readers.products, *readers.others) if name]
