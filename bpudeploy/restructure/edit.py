"""Edit a GRAPH artifact: load it as a Graph, append nodes and constants, clean up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import attributes_of, constants_of, inputs_of, shapes_of
from bpudeploy.restructure.graph import Graph, Node, TensorView
from bpudeploy.restructure.rules.dead import remove_dead
from bpudeploy.restructure.rules.merge_equal import merge_equal_nodes
from bpudeploy.spec.operators import VIEWS

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

UNARY = frozenset(
    {"Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Abs", "HardSigmoid", "Clip", "Elu"}
    | {"LeakyRelu", "Softplus", "Pow", "Identity"}
)
"""Elementwise operators of one tensor; further inputs are constants."""
BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
"""Elementwise operators of two tensors."""
ELEMENTWISE = UNARY | BINARY


def editable_graph(model: onnx.ModelProto, keep_float: Iterable[str] = ()) -> Graph:
    """Return ``model`` as a Graph, with nodes named after their output.

    Args:
        keep_float: names of the nodes that quantization keeps in float.

    Raises:
        StageError: a tensor has no static 4-D shape, or a node has several outputs.
    """
    import onnx

    shapes = shapes_of(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph)
    graph, kept = Graph(), frozenset(keep_float)
    graph.constants = constants_of(model.graph)
    graph.inputs = {value.name: shapes[value.name] for value in inputs_of(model.graph)}
    for node in model.graph.node:
        shape = shapes.get(node.output[0], ())
        if len(node.output) != 1 or len(shape) != 4 or 0 in shape:
            raise StageError(
                f"{node.name or node.op_type} has {len(node.output)} outputs, the first of shape {list(shape)}",
                hint="only the graph of the restructure step can be edited: one static 4-D output per node",
            )
        inputs, attributes = list(node.input), attributes_of(node)
        graph.add(Node(node.op_type, node.output[0], inputs, shape, attributes, keep_float=node.name in kept))
    for value in model.graph.output:
        shape = shapes[value.name]
        graph.outputs.append(TensorView(value.name, shape, fine=shape, perm=(0, 1, 2, 3), shape=shape))
    return graph


def store(graph: Graph, array: NDArray[np.generic], base: str) -> str:
    """Add a constant and return its name."""
    name = graph.unique_name(base)
    graph.constants[name] = array
    return name


def scalar(graph: Graph, value: float) -> str:
    """Return the name of the float32 constant (1, 1, 1, 1) of ``value``."""
    name = f"approximate.{float(value):.9g}"
    graph.constants[name] = np.full((1, 1, 1, 1), value, np.float32)
    return name


def emit(graph: Graph, op: str, base: str, inputs: Sequence[str], shape: Sequence[int], **attributes: object) -> str:
    """Append a node with a unique name based on ``base`` and return the name; ``tidy`` restores the order."""
    return graph.add(Node(op, graph.unique_name(base), list(inputs), tuple(shape), dict(attributes)))


def reshape(graph: Graph, tensor: str, shape: Sequence[int], base: str) -> str:
    """Append a Reshape of ``tensor``, or of what ``tensor`` itself is a Reshape of, and return its name."""
    while tensor in graph.nodes and graph.nodes[tensor].op == "Reshape":
        tensor = graph.nodes[tensor].inputs[0]
    return emit(graph, "Reshape", base, [tensor, shape_constant(graph, shape)], shape)


def transpose(graph: Graph, tensor: str, perm: Sequence[int], base: str) -> str:
    """Append a Transpose of ``tensor`` and return its name."""
    given = graph.shape(tensor)
    return emit(graph, "Transpose", base, [tensor], [given[axis] for axis in perm], perm=list(perm))


def slice_axis(graph: Graph, tensor: str, axis: int, start: int, stop: int, base: str) -> str:
    """Append the Slice [``start``, ``stop``) of ``tensor`` on one axis and return its name."""
    shape = [stop - start if i == axis else size for i, size in enumerate(graph.shape(tensor))]
    bounds = [store(graph, np.array([n], np.int64), f"{base}.bound") for n in (start, stop, axis, 1)]
    return emit(graph, "Slice", base, [tensor, *bounds], shape)


def shape_constant(graph: Graph, shape: Sequence[int]) -> str:
    """Return the name of the int64 constant of ``shape``."""
    name = f"shape.{'x'.join(map(str, shape))}"
    graph.constants[name] = np.array(shape, np.int64)
    return name


def view_sources(graph: Graph, tensor: str) -> list[str]:
    """Return ``tensor`` and the tensors of which it is a view, the nearest first.

    A Slice is a view: the rewrite slices the stream before the last block's MLP to the one token that is read.
    """
    found = [tensor]
    while (node := graph.nodes.get(found[-1])) is not None and node.op in VIEWS:
        found.append(node.inputs[0])
    return found


def tidy(graph: Graph) -> None:
    """Sort nodes, merge equal nodes and constants, remove dead ones."""
    _sort(graph)
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    merged = {
        name: first.setdefault((array.dtype.str, array.shape, array.tobytes()), name)
        for name, array in graph.constants.items()
    }
    for node in graph.nodes.values():
        node.inputs = [merged.get(name, name) for name in node.inputs]
    merge_equal_nodes(graph)
    remove_dead(graph)


def _sort(graph: Graph) -> None:
    """Sort nodes topologically, otherwise in their present order."""
    done: dict[str, Node] = {}
    waiting = list(graph.nodes.values())
    ready = graph.inputs.keys() | graph.constants.keys() | {""}
    while waiting:
        later = []
        for node in waiting:
            if all(name in done or name in ready for name in node.inputs):
                done[node.name] = node
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"a cycle through {later[0].name}")
        waiting = later
    graph.nodes = done
