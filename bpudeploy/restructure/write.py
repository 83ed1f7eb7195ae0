"""Write the 4-D graph as an ONNX model: opset 11, IR 7, Moves as Reshapes and Transposes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import MOVE, Graph, Node
from bpudeploy.restructure.moves import steps

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

OPSET = 11
IR_VERSION = 7
LOGITS = "logits"
_LARGEST = 2**31 - 2**20
"""The limit of a protobuf message, 2 GiB, minus room for the nodes."""


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """Return ``graph`` as a model; consumes the graph's constants.

    A single output is named ``logits``; every node is named after its output.
    """
    import onnx
    from onnx import helper, numpy_helper

    size = sum(array.nbytes for array in graph.constants.values())
    if size > _LARGEST:
        raise StageError(
            f"the network's weights are {size / 2**30:.1f} GiB, and the limit of an ONNX file is 2",
            hint="choose a smaller variant; this one fits no BPU board",
        )
    nodes: list[onnx.NodeProto] = []
    shapes: dict[str, NDArray[Any]] = {}
    for node in graph.nodes.values():
        if node.op == MOVE:
            nodes += _move(node, shapes)
        else:
            nodes.append(helper.make_node(node.op, node.inputs, [node.name], name=node.name, **node.attributes))
    _name_outputs(graph, nodes)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "bpudeploy",
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in graph.inputs.items()],
            [helper.make_tensor_value_info(o.name, onnx.TensorProto.FLOAT, graph.shape(o.name)) for o in graph.outputs],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bpudeploy",
    )
    used = {name for node in nodes for name in node.input}
    for name in [*graph.constants]:
        array = graph.constants.pop(name)
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in shapes.items())
    return model


def _move(node: Node, shapes: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    import numpy as np
    from onnx import helper

    nodes, tensor = [], node.inputs[0]
    todo = steps(*node.layouts)
    if not todo:  # an output that equals another tensor
        return [helper.make_node("Identity", [tensor], [node.name], name=node.name)]
    for index, step in enumerate(todo):
        name = node.name if index == len(todo) - 1 else f"{node.name}.step{index + 1}"
        if step.perm:
            nodes.append(helper.make_node("Transpose", [tensor], [name], name=name, perm=list(step.perm)))
        else:
            shape = f"shape.{'x'.join(map(str, step.shape))}"
            shapes[shape] = np.array(step.shape, np.int64)
            nodes.append(helper.make_node("Reshape", [tensor, shape], [name], name=name))
        tensor = name
    return nodes


def _name_outputs(graph: Graph, nodes: list[onnx.NodeProto]) -> None:
    """Rename a single output to ``logits``."""
    from dataclasses import replace

    if len(graph.outputs) != 1:
        return
    (output,) = graph.outputs
    for node in nodes:
        if node.output[0] == output.name:
            node.output[0] = LOGITS
        node.input[:] = [LOGITS if n == output.name else n for n in node.input]
    graph.nodes[LOGITS] = graph.nodes.pop(output.name)
    graph.rename_counterpart(output.name, LOGITS)
    graph.outputs = [replace(output, name=LOGITS)]


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path`` tensor by tensor; consumes its initializers.

    ``onnx.save`` needs three times the memory of the weights. This writes the same message: ModelProto.graph is
    field 7 and GraphProto.initializer field 5, both length-delimited
    (https://protobuf.dev/programming-guides/encoding, onnx.proto).
    """
    import onnx

    tensors = model.graph.initializer
    weights = [tensors.pop(0) for _ in range(len(tensors))]
    graph, head = model.graph.SerializeToString(deterministic=True), onnx.ModelProto()
    head.CopyFrom(model)
    head.ClearField("graph")
    framed = sum(1 + len(_varint(size)) + size for size in (t.ByteSize() for t in weights))
    with path.open("wb") as file:
        file.write(head.SerializeToString(deterministic=True))
        file.write(b"\x3a" + _varint(len(graph) + framed) + graph)
        for tensor in weights:
            file.write(b"\x2a" + _varint(tensor.ByteSize()))
            file.write(tensor.SerializeToString(deterministic=True))


def _varint(number: int) -> bytes:
    """Return ``number`` in protobuf's base-128 encoding, least significant group first."""
    groups = []
    while True:
        number, low = number >> 7, number & 0x7F
        groups.append(low | (0x80 if number else 0))
        if not number:
            return bytes(groups)
