"""An ONNX graph as the checks read it: each node with its shapes, constants, producers and consumers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from bpudeploy.onnxmodel import constants_of, module_path, node_model, opset_of, readers_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

_FOLDED_ELEMENTS = 1 << 14
"""Constants up to this size are evaluated: shapes, indices and masks, never weights."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """``shape`` is None if unknown; ``values`` is set for available constants only."""

    name: str
    shape: tuple[int, ...] | None
    constant: bool = False
    values: Array | None = None


@dataclass(frozen=True, eq=False)
class NodeView:
    """One node. ``folded``: it depends on no input of the network, so the compiler evaluates it.

    An omitted input is None. ``consumers`` are the operators that read its outputs.
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

    @property
    def features(self) -> tuple[Tensor, ...]:
        """The inputs that depend on the network's input."""
        return tuple(t for t in self.inputs if t is not None and not t.constant)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """The inputs that do not: weights, shapes, indices."""
        return tuple(t for t in self.inputs if t is not None and t.constant)


@dataclass
class _Reader:
    """State while the nodes are read in order."""

    model: onnx.ModelProto
    opset: int
    trained: bool
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)
    values: dict[str, Array] = field(default_factory=dict)
    producers: dict[str, str] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        values = self.values.get(name)
        if values is not None and values.dtype.kind == "f" and not self.trained:
            values = None
        return Tensor(name, self.shape(name), name in self.constant, values)

    def shape(self, name: str) -> tuple[int, ...] | None:
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
    consumers = readers_of(graph.node, lambda node: node.input)
    reader.producers = {name: node.op_type for node in graph.node for name in node.output}
    outputs = {o.name for o in graph.output}
    return tuple(_view(reader, node, index, consumers, outputs) for index, node in enumerate(graph.node))


def _view(
    reader: _Reader, node: onnx.NodeProto, index: int, consumers: Mapping[str, list[onnx.NodeProto]], outputs: set[str]
) -> NodeView:
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.HasField("g")}
    _infer(reader, node)
    folded = _fold(reader, node, attributes)
    if folded:
        reader.constant.update(node.output)
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
        consumers=tuple(r.op_type for name in node.output for r in consumers.get(name, ())),
        producers=tuple(reader.producers[n] for n in node.input if n in reader.producers and n not in reader.constant),
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
