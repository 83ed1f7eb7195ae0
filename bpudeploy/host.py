"""Use of this machine's cores: onnxruntime sessions, batches, and parallel NumPy work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from bpudeploy.onnxmodel import copy_model

if TYPE_CHECKING:
    import onnx

T = TypeVar("T")
R = TypeVar("R")
_MAX_PARALLEL = 4
"""Limits memory: each item has its own matrices."""


def open_session(model: str | bytes, *, lean: bool = False) -> Any:
    """Return an InferenceSession on all CPU cores, for a file or serialised bytes; it logs errors only.

    ``lean`` disables onnxruntime's layout optimisations, which use 1.5 times the weights' memory to save an eighth of
    the time (``benchmarks/restructure_cost.py``). Do not use it for results that are compared with a board.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 3
    if lean:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_with_outputs(model: onnx.ModelProto, names: Iterable[str], *, only: bool = False, lean: bool = False) -> Any:
    """Return a session of a copy of ``model`` that also outputs the float tensors ``names``, or ``only`` these."""
    import onnx

    copy = copy_model(model)
    if only:
        del copy.graph.output[:]
    outputs = [value.name for value in copy.graph.output]
    for name in dict.fromkeys(names):
        if name not in outputs:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(copy.SerializeToString(), lean=lean)


def batches(count: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices 0 to ``count`` - 1 in lists of ``size``, each with its number of valid indices.

    The last list is padded with its last index.
    """
    for start in range(0, count, size):
        yield [min(i, count - 1) for i in range(start, start + size)], min(size, count - start)


def parallel_map(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return ``work(item)`` for each item in order, computed by several threads with single-threaded BLAS.

    BLAS threads spin while waiting, which is slow on few or busy cores, and their number changes results.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(min(_MAX_PARALLEL, os.cpu_count() or 1)) as pool,
    ):
        return list(pool.map(work, items))
