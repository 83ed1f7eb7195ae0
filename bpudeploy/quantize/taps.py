"""Which tensors of a restructured graph are rounded, where, and who reads what."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bpudeploy.spec.operators import VIEWS
from bpudeploy.spec.precision import Precision, PrecisionRules

if TYPE_CHECKING:
    import onnx

PRODUCTS = frozenset({"Conv", "MatMul"})
_FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})
"""What an accelerator computes on the way out of a Conv or an Add: the sum between them is never stored."""
WIDE = ".wide"
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""What a QDQ graph has more than its float graph."""


@dataclass(frozen=True)
class Place:
    """One rounding: ``name`` is the tap, ``tensor`` what is rounded, ``source`` the tensor that it is a view of.

    ``readers`` are the nodes that read the rounded values, ``products`` those Conv and MatMul that do, itself or a
    view of it.
    """

    name: str
    tensor: str
    source: str
    precision: Precision
    readers: tuple[str, ...]
    products: tuple[str, ...] = ()


@dataclass(frozen=True)
class Uses:
    """Who reads a tensor, itself or through views: (tensor read, node) for products, and for all others."""

    products: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]
    views: tuple[str, ...]


class Reading:
    """A graph as one asks it: who makes a tensor, who reads it, what is it a view of."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = {node.name: node for node in graph.node}
        self.maker = {output: node for node in graph.node for output in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)

    def source(self, tensor: str) -> str:
        """Return the tensor that ``tensor`` is a view of, or itself."""
        while tensor in self.maker and self.maker[tensor].op_type in VIEWS:
            tensor = self.maker[tensor].input[0]
        return tensor

    def unrounded(self, tensor: str) -> str:
        """Return the tensor that ``tensor`` is, before any rounding, in a QDQ graph."""
        while tensor in self.maker and self.maker[tensor].op_type in ROUNDING:
            tensor = self.maker[tensor].input[0]
        return tensor

    def tensors(self) -> Iterator[str]:
        """Yield what is made of the input and is no view, in the graph's order, the input first."""
        yield from self.inputs
        for node in self.nodes.values():
            if node.op_type not in VIEWS:
                yield from node.output

    def uses(self, tensor: str, products: Collection[str]) -> Uses:
        """Return who reads ``tensor``; the network's own outputs count as others, read by nobody ("")."""
        found: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        views, todo = [], [tensor]
        while todo:
            name = todo.pop(0)
            if name in self.outputs:
                found[False].append((name, ""))
            for node in self.readers.get(name, ()):
                if node.op_type in VIEWS:
                    views.append(node.name)
                    todo.append(node.output[0])
                else:
                    found[node.name in products].append((name, node.name))
        return Uses(tuple(found[True]), tuple(found[False]), tuple(views))


def is_passed_on(maker: onnx.NodeProto, readers: Sequence[onnx.NodeProto]) -> bool:
    """Return whether what ``maker`` gives is a sum that goes straight through an activation: it is never stored."""
    return maker.op_type in ("Conv", "Add") and bool(readers) and all(node.op_type in _FUSED for node in readers)


def softmax_side(reading: Reading, node: onnx.NodeProto) -> int | None:
    """Return which input of a MatMul is a softmax, or a view of one: 0, 1, or None."""
    if node.op_type != "MatMul":
        return None
    makers = [reading.maker.get(reading.source(name)) for name in node.input]
    return next((i for i, maker in enumerate(makers) if maker is not None and maker.op_type == "Softmax"), None)


def find_products(model: onnx.ModelProto, in_float: Collection[str]) -> tuple[str, ...]:
    """Return the names of the Conv and MatMul that take integers."""
    return tuple(n.name for n in model.graph.node if n.op_type in PRODUCTS and n.name not in in_float)


def find_places(
    model: onnx.ModelProto, rules: PrecisionRules, in_float: Collection[str], int16: Sequence[str]
) -> tuple[Place, ...]:
    """Return where ``model`` is rounded, in the graph's order.

    What goes into a Conv or MatMul is int8, or int16 where its name, its maker's operator (``op:Softmax``) or one of
    its readers' names (or ``last``, if one gives an output) matches a pattern of ``int16`` and the march has it for
    all of its readers. Every other tensor is held as ``rules.elsewhere`` says; a sum that goes straight through an
    activation is not stored, so not rounded. Where both kinds of reader exist and differ, others read the wide form
    (``NAME.wide``) and products read its narrowing; with float32 elsewhere, others read what was not rounded.

    Args:
        in_float: nodes that the accelerator does not run in integers.
    """
    reading = Reading(model)
    products = frozenset(find_products(model, in_float))
    found: list[Place] = []
    for tensor in reading.tensors():
        uses = reading.uses(tensor, products)
        if uses.products:
            able = all(Precision.INT16 in rules.allowed(reading.nodes[node].op_type) for _, node in uses.products)
            held = Precision.INT16 if able and _asked(reading, tensor, uses, int16) else Precision.INT8
            found += _read_by_products(tensor, uses, held, _elsewhere(reading, tensor, uses, rules, in_float))
        elif (wide := _elsewhere(reading, tensor, uses, rules, in_float)) is not Precision.FLOAT32:
            readers = (*uses.views, *(node for _, node in uses.others if node))
            found.append(Place(tensor, tensor, tensor, wide, readers))
    return tuple(found)


def _read_by_products(tensor: str, uses: Uses, held: Precision, wide: Precision) -> Iterator[Place]:
    names = tuple(dict.fromkeys(node for _, node in uses.products))
    others = tuple(node for _, node in uses.others if node)
    if not uses.others or wide is held:
        yield Place(tensor, tensor, tensor, held, (*uses.views, *names, *others), names)
        return
    if wide is not Precision.FLOAT32:
        yield Place(f"{tensor}{WIDE}", tensor, tensor, wide, (*uses.views, *others))
    for view in dict.fromkeys(name for name, _ in uses.products):
        mine = tuple(dict.fromkeys(node for name, node in uses.products if name == view))
        yield Place(view, view, tensor, held, mine, mine)


def _asked(reading: Reading, tensor: str, uses: Uses, patterns: Sequence[str]) -> bool:
    maker = reading.maker.get(tensor)
    names = [tensor, *(node for _, node in uses.products), f"op:{maker.op_type}" if maker is not None else ""]
    if any(reading.nodes[node].output[0] in reading.outputs for _, node in uses.products):
        names.append("last")
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _elsewhere(
    reading: Reading, tensor: str, uses: Uses, rules: PrecisionRules, in_float: Collection[str]
) -> Precision:
    """Return how a tensor that others read is held."""
    maker, readers = reading.maker.get(tensor), [node for _, node in (*uses.products, *uses.others) if node]
    if maker is None or maker.name in in_float or not readers:
        return Precision.FLOAT32
    if is_passed_on(maker, [reading.nodes[name] for name in readers]):
        return Precision.FLOAT32
    return rules.elsewhere
