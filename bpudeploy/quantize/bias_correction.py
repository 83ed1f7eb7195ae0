"""The share of each bias that corrects the mean error of int8 inputs; it is removed if the inputs become int16."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import onnx

from bpudeploy.quantize.arrays import F32, F64
from bpudeploy.quantize.calibrate import StatisticsRequest, conv_inputs, observe, windows_by_tensor
from bpudeploy.quantize.promote import without_corrections
from bpudeploy.quantize.record import QuantizeRecord, int8_taps
from bpudeploy.quantize.taps import GraphIndex
from bpudeploy.quantize.weights import ConvWeights, fake_quantize
from bpudeploy.spec.precision import Precision

PASSES = 2
"""Measured on the quickstart's model, no techniques, all taps in int16: squared error of the logits over their variance
is 0.032 with all corrections left in, 0.0075 after one pass, 0.0049 after two, 0.0048 after three, and 0.0046 if
quantized to int16 from the start."""
_LEVELS = Precision.INT8.levels


def bias_corrections(
    graph: onnx.ModelProto,
    record: QuantizeRecord,
    image: Callable[[int], F32],
    runs: int,
    progress: Callable[[int], None],
) -> dict[str, F64]:
    """Return Wq E[x - round(x)], shape (out,), of each Conv that reads an int8 tap.

    With correct_bias its bias contains W E[x] - Wq E[round(x)]. For an int16 input that would be W E[x] - Wq E[x];
    this is the difference. Expectations are over the columns that calibration samples. In the first pass, each x
    still includes the corrections of all preceding layers, where nothing is rounded; the second pass removes them.

    Args:
        graph: the prepared float graph, whose weights are Wq.
        image: returns the input of run 0 to ``runs`` - 1 of calibration: float32 (N, 3, H, W), normalised.
        progress: called with the number of finished runs over all passes.
    """
    index = GraphIndex(graph)
    steps = {name: tap.scale for tap in int8_taps(record).values() for name in tap.products}
    inputs = conv_inputs(index, steps)
    request = StatisticsRequest([], [], windows_by_tensor(inputs))
    found: dict[str, F64] = {}
    done = count(1)
    for _ in range(PASSES):
        plain = without_corrections(graph, record, list(record.taps), found)
        images = (image(i) for i in range(runs))
        statistics = observe(plain, request, images, runs, lambda _: progress(next(done)))
        for name, (tensor, window) in inputs.items():
            rows, columns = ConvWeights.of(index.nodes[name], index.constants).rows, statistics[tensor].sampled(window)
            error = columns - fake_quantize(columns, np.float32(steps[name]), _LEVELS)
            mean = error.mean(axis=1, dtype=np.float64).reshape(len(rows), -1, 1)
            found[name] = (rows @ mean).reshape(-1)
    return found
