"""The imported network: ONNX nodes of any rank and opset, in order, with constants as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import attributes_of, constants_of, module_path, opset_of, readers_of, shape_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Operation:
    """One node; ``path`` is its module path, such as ``blocks.0.attn.qkv``."""

    op: str
    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: onnx.NodeProto


@dataclass(frozen=True, eq=False)
class Network:
    """``inputs`` are names and shapes; ``opset`` is that of the standard domain."""

    operations: tuple[Operation, ...]
    constants: Mapping[str, Array]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    opset: int

    @cached_property
    def readers(self) -> Mapping[str, Sequence[Operation]]:
        """Tensor to the operations that read it; an operation appears once per input that reads it."""
        return readers_of(self.operations, lambda operation: operation.inputs)

    def sole_reader(self, tensor: str) -> Operation | None:
        """Return the only node that reads ``tensor``; None if there are several or it is an output."""
        readers = self.readers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def read_network(model: onnx.ModelProto, weights: Mapping[str, Array] | None = None) -> Network:
    """Return ``model`` as a Network; inputs named in ``weights`` become constants without a copy.

    Raises:
        StageError: an input's shape is not static, or the model uses non-standard operators.
    """
    graph, weights = model.graph, dict(weights or {})
    _require_standard_operators(model)
    operations, constants = read_operations(graph)
    inputs = {}
    for value in graph.input:
        if value.name in weights:
            constants[value.name] = weights[value.name]
        elif value.name not in constants:
            inputs[value.name] = _static_shape(value)
    return Network(tuple(operations), constants, inputs, tuple(o.name for o in graph.output), opset_of(model))


def read_operations(graph: onnx.GraphProto) -> tuple[list[Operation], dict[str, Array]]:
    """Return the operations of ``graph`` (or of a branch of an If) in order, and its constants."""
    constants, operations = constants_of(graph), []
    for index, node in enumerate(graph.node):
        attributes = attributes_of(node)
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(attributes)
            continue
        inputs = (*node.input, *_captured(node)) if node.op_type == "If" else tuple(node.input)
        path = module_path(node.name) or f"{node.op_type.lower()}.{index}"
        operations.append(Operation(node.op_type, path, inputs, tuple(node.output), attributes, node))
    return operations, constants


def _captured(node: onnx.NodeProto) -> list[str]:
    """Return the outer tensors that the branches of an If read: ONNX does not list them as inputs."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        inside = {t.name for t in attribute.g.initializer} | {o for n in attribute.g.node for o in n.output}
        found |= dict.fromkeys(i for n in attribute.g.node for i in n.input if i and i not in inside)
        found |= dict.fromkeys(o.name for o in attribute.g.output if o.name not in inside)
    return list(found)


def _require_standard_operators(model: onnx.ModelProto) -> None:
    foreign = {e.domain for e in model.opset_import} - {"", "ai.onnx"}
    used = next((n for n in model.graph.node if n.domain in foreign and n.domain), None)
    if used is not None:
        raise StageError(
            f"node {used.name or used.op_type} uses {used.op_type} of {used.domain!r}, which is not standard ONNX",
            hint="export the float model with standard operators only (before any vendor or runtime optimiser)",
        )


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    shape = shape_of(value)
    if not shape or min(shape) < 1:
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        raise StageError(
            f"input {value.name!r} has the shape {dims}, which is not fixed",
            hint="set it in the recipe (`model.image_size`, `model.batch`), or export with fixed shapes",
        )
    return shape


def _constant(attributes: Mapping[str, Any]) -> Array:
    import numpy as np
    from onnx import numpy_helper

    ((kind, value),) = attributes.items()
    if kind == "value":
        array: Array = numpy_helper.to_array(value)
        return array
    return np.array(value, dtype=np.int64 if kind.startswith("value_int") else np.float32)
