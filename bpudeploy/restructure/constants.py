"""Constant folding: evaluate nodes whose inputs are all constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import node_model

if TYPE_CHECKING:
    from bpudeploy.restructure.network import Array, Operation


def evaluate(operation: Operation, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Return the outputs of ``operation`` on constants, computed by ONNX's reference implementation.

    The most frequent operators are computed directly with NumPy, so that views of weights stay views.

    Raises:
        StageError: the reference implementation does not support the operator.
    """
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    compute = _WITH_NUMPY.get(operation.op)
    if compute is not None:
        return [compute(operation, *inputs)]
    feeds = {name: array for name, array in zip(operation.inputs, inputs, strict=True) if array is not None}
    types = {name: array.dtype for name, array in feeds.items()}
    model = node_model(operation.proto, types, [helper.make_opsetid("", opset)])
    try:
        return list(ReferenceEvaluator(model).run(None, feeds))
    except (NotImplementedError, RuntimeError, TypeError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise StageError(
            f"{operation.path}: cannot compute the constant {operation.op}: {error}",
            hint="export the model with constant folding",
        ) from error


def _unsqueeze(operation: Operation, array: Any, axes: Any = None) -> Any:
    import numpy as np

    return np.expand_dims(array, tuple(axes.tolist() if axes is not None else operation.attributes["axes"]))


def _concat(operation: Operation, *arrays: Any) -> Any:
    import numpy as np

    return np.concatenate(arrays, axis=operation.attributes["axis"])


def _cast(operation: Operation, array: Any) -> Any:
    from onnx import helper

    return array.astype(helper.tensor_dtype_to_np_dtype(operation.attributes["to"]))


def _reshape(operation: Operation, array: Any, shape: Any) -> Any:
    return array.reshape([array.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])


_WITH_NUMPY: dict[str, Callable[..., Any]] = {
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Cast": _cast,
    "Reshape": _reshape,
    "Gather": lambda operation, array, index: array.take(index, axis=operation.attributes.get("axis", 0)),
    "Transpose": lambda operation, array: array.transpose(operation.attributes.get("perm")),
    "Identity": lambda operation, array: array,
}
