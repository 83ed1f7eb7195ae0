"""What is known before any image comes: nodes whose inputs are all constants are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError

if TYPE_CHECKING:
    from bpudeploy.restructure.imported import Array, Operation


def evaluate(operation: Operation, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Return the outputs of ``operation`` on constants, by ONNX's own reference implementation.

    The few operators that big networks use by the thousand for their shapes are done here: views of
    weights stay views.

    Raises:
        StageError: the reference has no such operator.
    """
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    quick = _QUICK.get(operation.op)
    if quick is not None:
        return [quick(operation, *inputs)]
    feeds = {name: array for name, array in zip(operation.inputs, inputs, strict=True) if array is not None}
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    made = [helper.make_empty_tensor_value_info(name) for name in operation.outputs if name]
    graph = helper.make_graph([operation.proto], "constant", values, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        return list(ReferenceEvaluator(model).run(None, feeds))
    except (NotImplementedError, RuntimeError, TypeError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise StageError(
            f"{operation.path}: cannot compute the constant {operation.op}: {error}",
            hint="export the model with constant folding",
        ) from error


def _unsqueeze(operation: Operation, array: Any, axes: Any = None) -> Array:
    import numpy as np

    wanted = axes.tolist() if axes is not None else operation.attributes["axes"]
    made: Array = np.expand_dims(array, tuple(wanted))
    return made


def _concat(operation: Operation, *arrays: Any) -> Array:
    import numpy as np

    made: Array = np.concatenate(arrays, axis=operation.attributes["axis"])
    return made


def _gather(operation: Operation, array: Any, index: Any) -> Array:
    made: Array = array.take(index, axis=operation.attributes.get("axis", 0))
    return made


def _cast(operation: Operation, array: Any) -> Array:
    from onnx import helper

    made: Array = array.astype(helper.tensor_dtype_to_np_dtype(operation.attributes["to"]))
    return made


def _transpose(operation: Operation, array: Any) -> Array:
    made: Array = array.transpose(operation.attributes.get("perm"))
    return made


def _reshape(operation: Operation, array: Any, shape: Any) -> Array:
    wanted = [array.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)]
    made: Array = array.reshape(wanted)
    return made


_QUICK: dict[str, Callable[..., Any]] = {
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Gather": _gather,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Identity": lambda operation, array: array,
}
