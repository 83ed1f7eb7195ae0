"""An ONNX graph as the checks read it: each node with its shapes, constants, producers and consumers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from bpudeploy.onnxmodel import constants_of, module_path, node_model, opset_of, readers_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

Dims = tuple[int, ...]
_FOLDED_ELEMENTS = 1 << 14
"""Constants up to this size are evaluated: shapes, indices and masks, never weights."""
_SOFTMAX = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
"""Along axis 1 by default, and the last one since opset 13."""
_LAST_AXIS = frozenset({"TopK", "LpNormalization"})


class UnknownValue(Exception):
    """The graph does not contain a shape or a value that was asked for; the text says which."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """``shape`` is None if unknown; ``values`` is set for available constants only."""

    name: str
    shape: Dims | None
    constant: bool = False
    values: Array | None = None

    @property
    def dims(self) -> Dims:
        """The shape; raises UnknownValue if there is none."""
        if self.shape is None:
            raise UnknownValue("unknown shape")
        return self.shape

    @property
    def size(self) -> int:
        """How many values it has; 0 if the shape is unknown."""
        return prod(self.shape) if self.shape is not None else 0


@dataclass(frozen=True, eq=False)
class NodeView:
    """One node. ``folded``: it depends on no input of the network, so the compiler evaluates it.

    An omitted input is None. ``consumers`` are the operators that read its outputs, ``readers`` their nodes by index.
    """

    name: str
    scope: str
    op: str
    domain: str
    opset: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]
    folded: bool
    is_graph_output: bool
    consumers: tuple[str, ...]
    producers: tuple[str, ...] = ()
    """The operators that produce its feature maps; the network's input has none."""
    readers: Dims = ()
    sources: Dims = ()
    """The nodes that produce its feature maps, by index."""

    @property
    def features(self) -> tuple[Tensor, ...]:
        """The inputs that depend on the network's input."""
        return tuple(t for t in self.inputs if t is not None and not t.constant)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """The inputs that do not: weights, shapes, indices."""
        return tuple(t for t in self.inputs if t is not None and t.constant)

    @property
    def rank(self) -> int:
        """The rank of the first feature map."""
        return len(self.features[0].dims)

    @property
    def axis(self) -> int:
        """The axis that it works along, counted from the front; by default that of its operator and opset."""
        last = self.op in _LAST_AXIS or (self.op in _SOFTMAX and self.opset >= 13)
        axis, rank = int(self.attributes.get("axis", -1 if last else int(self.op in _SOFTMAX))), self.rank
        return axis + rank if axis < 0 else axis

    @property
    def reduced_axes(self) -> Dims:
        """The axes that a reduction removes or sets to 1, in order."""
        return tuple(sorted(a + self.rank if a < 0 else a for a in self.numbers("axes", 1, range(self.rank))))

    @property
    def padded_axes(self) -> Dims:
        """The axes that a Pad changes, in order."""
        pads = self.numbers("pads", 1)
        return tuple(sorted({i % (len(pads) // 2) for i, p in enumerate(pads) if p}))

    @property
    def factors(self) -> tuple[float, ...]:
        """How many times larger each axis of the output is."""
        before, after = self.features[0].dims, self.outputs[0].dims
        if len(before) != len(after):
            raise UnknownValue("its rank changes")
        return tuple(b / a for a, b in zip(before, after, strict=True))

    def operand(self, index: int) -> Tensor:
        """Return an input; raise UnknownValue if it is left out."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise UnknownValue(f"input {index} is not given")
        return found

    def numbers(self, attribute: str, index: int | None = None, default: Iterable[int] | None = None) -> Dims:
        """Return integers that newer opsets have as input ``index`` and older ones as an attribute."""
        found: Any = self.attributes.get(attribute)
        if found is None and index is not None and index < len(self.inputs) and self.inputs[index] is not None:
            values = self.operand(index).values
            if values is None:
                raise UnknownValue(f"its {attribute} is not a constant of known value")
            found = values.reshape(-1).tolist()
        if found is None and default is None:
            raise UnknownValue(f"{attribute} is not given")
        if found is None:
            found = list(default or ())
        return tuple(int(n) for n in (found if isinstance(found, list | tuple) else [found]))


def changed_axes(before: Dims, after: Dims) -> Dims:
    """Return the axes of ``after`` whose size is not that of ``before``, aligned at the last axis."""
    padded = (1,) * (len(after) - len(before)) + before
    return tuple(axis for axis, (a, b) in enumerate(zip(padded, after, strict=True)) if a != b)


@dataclass
class _Reader:
    """State while the nodes are read in order."""

    model: onnx.ModelProto
    opset: int
    trained: bool
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)
    values: dict[str, Array] = field(default_factory=dict)
    producers: dict[str, int] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        values = self.values.get(name)
        if values is not None and values.dtype.kind == "f" and not self.trained:
            values = None
        return Tensor(name, self.shape(name), name in self.constant, values)

    def shape(self, name: str) -> Dims | None:
        if name in self.values:
            return tuple(self.values[name].shape)
        found = self.types.get(name)
        if found is None or not found.tensor_type.HasField("shape"):
            return None
        dims = found.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def read_graph(
    model: onnx.ModelProto, constants: Collection[str] = (), *, trained: bool = True
) -> tuple[NodeView, ...]:
    """Return every node of ``model``, in order, with inferred shapes.

    Args:
        constants: inputs of the graph that are weights, as in an export without them.
        trained: float constants are real weights; else their values are omitted.
    """
    graph = model.graph
    reader = _Reader(model, opset_of(model), trained)
    for info in (*graph.value_info, *graph.output, *graph.input):
        reader.types[info.name] = info.type
    reader.values = constants_of(graph)
    reader.constant = {v.name for v in graph.input if v.name in constants} | reader.values.keys()
    readers = readers_of(range(len(graph.node)), lambda index: graph.node[index].input)
    reader.producers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    outputs = {o.name for o in graph.output}
    return tuple(_view(reader, node, index, readers, outputs) for index, node in enumerate(graph.node))


def _view(
    reader: _Reader, node: onnx.NodeProto, index: int, readers: Mapping[str, list[int]], outputs: set[str]
) -> NodeView:
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.HasField("g")}
    attributes |= {name: text.decode(errors="replace") for name, text in attributes.items() if isinstance(text, bytes)}
    _infer(reader, node)
    folded = _fold(reader, node, attributes)
    if folded:
        reader.constant.update(node.output)
    reading = tuple(r for name in node.output if name for r in readers.get(name, ()))
    sources = tuple(reader.producers[n] for n in node.input if n in reader.producers and n not in reader.constant)
    return NodeView(
        name=node.name or f"{node.op_type.lower()}.{index}",
        scope=module_path(node.name),
        op=node.op_type,
        domain="" if node.domain == "ai.onnx" else node.domain,
        opset=reader.opset,
        inputs=tuple(reader.tensor(name) if name else None for name in node.input),
        outputs=tuple(reader.tensor(name) for name in node.output if name),
        attributes=attributes,
        folded=folded,
        is_graph_output=any(name in outputs for name in node.output),
        consumers=tuple(reader.model.graph.node[i].op_type for i in reading),
        producers=tuple(reader.model.graph.node[i].op_type for i in sources),
        readers=reading,
        sources=sources,
    )


def _infer(reader: _Reader, node: onnx.NodeProto) -> None:
    """Add the types of the node's outputs from its schema, if it has one."""
    from onnx import defs, numpy_helper, shape_inference

    known = {
        name: numpy_helper.from_array(reader.values[name])
        for name in node.input
        if name in reader.values and reader.values[name].size <= _FOLDED_ELEMENTS
    }
    types = {name: _type(reader, name) for name in node.input if name in reader.types or name in reader.values}
    try:
        schema = defs.get_schema(node.op_type, reader.opset, node.domain)
        found = shape_inference.infer_node_outputs(
            schema, node, types, known, opset_imports=list(reader.model.opset_import)
        )
    except Exception:  # raised by onnx for an unknown operator, rank or domain
        return
    for name, kind in found.items():
        if kind.tensor_type.HasField("shape") or name not in reader.types:
            reader.types[name] = kind


def _type(reader: _Reader, name: str) -> onnx.TypeProto:
    from onnx import helper

    if name not in reader.types:
        values = reader.values[name]
        reader.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
    return reader.types[name]


def _fold(reader: _Reader, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> bool:
    """Return whether the node is constant; evaluate it if its inputs are available and small."""
    import numpy as np

    if node.op_type == "Shape" and (shape := reader.shape(node.input[0])) is not None:
        chosen = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
        reader.values[node.output[0]] = np.array(chosen, np.int64)
        return True
    names = [n for n in node.input if n]
    if node.op_type != "Constant" and (not names or not reader.constant.issuperset(names)):
        return False
    if len(attributes) < len(node.attribute):  # a subgraph may read outer tensors
        return False
    if all(n in reader.values and reader.values[n].size <= _FOLDED_ELEMENTS for n in names):
        reader.values.update(_compute(reader, node))
    return True


def _compute(reader: _Reader, node: onnx.NodeProto) -> dict[str, Array]:
    import numpy as np
    from onnx.reference import ReferenceEvaluator

    made = [n for n in node.output if n]
    if any((shape := reader.shape(n)) is not None and prod(shape) > _FOLDED_ELEMENTS for n in made):
        return {}
    given = {n: reader.values[n] for n in node.input if n}
    try:
        one = node_model(node, {n: array.dtype for n, array in given.items()}, reader.model.opset_import)
        results = ReferenceEvaluator(one).run(None, given)
    except Exception:  # not implemented in onnx's reference: the value stays unknown
        return {}
    return {name: np.asarray(value) for name, value in zip(made, results, strict=True)}
