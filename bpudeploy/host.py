"""This machine's cores: one way to open an onnxruntime session, to feed it by batches, and to share NumPy's work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from bpudeploy.onnxmodel import copy_model

if TYPE_CHECKING:
    import onnx

T = TypeVar("T")
R = TypeVar("R")
_SIDE_BY_SIDE = 4
"""Items under way at once, at most: each has its own matrices in memory."""


def open_session(model: str | bytes, *, lean: bool = False) -> Any:
    """Return an InferenceSession of a file or of serialised bytes: CPU, every core, errors only in its log.

    ``lean`` leaves out onnxruntime's layout optimisations, which hold the weights 1.5 times more for an eighth of
    the time (``benchmarks/restructure_cost.py``). What is compared with a board is not lean: a board is not.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 3
    if lean:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_with_outputs(model: onnx.ModelProto, names: Iterable[str], *, lean: bool = False) -> Any:
    """Return a session of a copy of ``model`` that also outputs the float tensors ``names``."""
    import onnx

    copy = copy_model(model)
    outputs = [value.name for value in copy.graph.output]
    for name in dict.fromkeys(names):
        if name not in outputs:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(copy.SerializeToString(), lean=lean)


def batches(count: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices 0 to ``count`` - 1 in lists of ``size``, and how many of each list count.

    The last list is filled up with its last index.
    """
    for start in range(0, count, size):
        yield [min(i, count - 1) for i in range(start, start + size)], min(size, count - start)


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return ``work`` of each item in order, several at once, each with BLAS on one thread.

    BLAS's own threads wait for each other by spinning, which is slower on two cores and stalls on busy ones; and
    what they add up depends on how many there are.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(min(_SIDE_BY_SIDE, os.cpu_count() or 1)) as pool,
    ):
        return list(pool.map(work, items))
