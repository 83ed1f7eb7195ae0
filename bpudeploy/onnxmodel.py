"""What several packages read from an ONNX model: constants, inputs, shapes, attributes, readers, metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

N = TypeVar("N")


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a deep copy."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators, 1 by default."""
    return next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)


def constants_of(graph: onnx.GraphProto) -> dict[str, Array]:
    """Return the initializers by name, as arrays that share their memory."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that have no initializer; an ONNX graph may list its weights as inputs too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape of a tensor, with 0 for a symbolic or unknown dimension."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def shapes_of(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input, output and annotated (as by shape inference) tensor, by name."""
    return {value.name: shape_of(value) for value in (*graph.value_info, *graph.input, *graph.output)}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of ``node`` by name, texts as str."""
    from onnx import helper

    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute of ``node``, or ``default``."""
    return attributes_of(node).get(name, default)


def node_model(
    node: onnx.NodeProto,
    types: Mapping[str, np.dtype[Any]],
    opset_imports: Sequence[onnx.OperatorSetIdProto],
    constants: Mapping[str, Array] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Return a model of ``node`` alone, to compute it; ``types`` are those of its inputs that are not ``constants``."""
    from onnx import helper, numpy_helper

    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(t), None) for n, t in types.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "node", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=opset_imports)


def readers_of(nodes: Iterable[N], inputs: Callable[[N], Iterable[str]]) -> dict[str, list[N]]:
    """Return tensor to the nodes that read it, in order; ``inputs`` returns the tensors that a node reads.

    A node appears once per input that reads the tensor.
    """
    found: dict[str, list[N]] = {}
    for node in nodes:
        for name in inputs(node):
            found.setdefault(name, []).append(node)
    return found


def module_path(name: str) -> str:
    """Return the module path of a node that torch exported; any other name is its own.

    ``/blocks/blocks.0/attn/qkv/MatMul`` is ``blocks.0.attn.qkv``: a part that begins with its predecessor repeats it.
    """
    parts = [p for p in name.split("/") if p]
    inner = parts[:-1] if len(parts) > 1 else parts
    return ".".join(p for p, after in pairwise([*inner, ""]) if not after.startswith(f"{p}."))


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of ``model``."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Append ``key`` to the metadata of ``model``, replacing an earlier one."""
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    for name, text in [*kept, (key, value)]:
        model.metadata_props.add(key=name, value=text)
