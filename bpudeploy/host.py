"""This machine's onnxruntime: one way to open a session, and to feed it images batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any


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


def batches(count: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices 0 to ``count`` - 1 in lists of ``size``, and how many of each list count.

    The last list is filled up with its last index.
    """
    for start in range(0, count, size):
        yield [min(i, count - 1) for i in range(start, start + size)], min(size, count - start)
