"""Small edits of ONNX models that several passes share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bpudeploy.quantize.arrays import F64


def constant(model: onnx.ModelProto, name: str) -> F64:
    """Return an initializer in float64."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value: F64 = numpy_helper.to_array(tensor).astype(np.float64)
    return value


def put_constant(model: onnx.ModelProto, name: str, value: NDArray[np.generic]) -> str:
    """Replace the initializer ``name``, or append it; return ``name``."""
    tensor = next((t for t in model.graph.initializer if t.name == name), None)
    if tensor is None:
        tensor = model.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return name


def shift_bias(model: onnx.ModelProto, conv: onnx.NodeProto, shift: F64) -> None:
    """Add ``shift`` (out,) to the bias of a Conv, as a new initializer: another Conv may share the old one."""
    bias = shift + (constant(model, conv.input[2]) if len(conv.input) > 2 else 0.0)
    name = put_constant(model, f"{conv.name}.bias.shifted", bias.astype(np.float32))
    conv.input[:] = [*conv.input[:2], name]


def set_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of ``model``."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def set_constants(model: onnx.ModelProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Replace the initializers of ``model`` with the ``tensors`` that a node reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in tensors if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
