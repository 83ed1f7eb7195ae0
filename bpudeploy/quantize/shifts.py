"""What is in the biases to make up for the mean error of int8 inputs: it has to go when they are int16."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bpudeploy.quantize.calibrate import Wanted, observe
from bpudeploy.quantize.patches import Window
from bpudeploy.quantize.promote import without_shifts
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.taps import Reading
from bpudeploy.quantize.weights import Kernel
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

PASSES = 2
"""On the quickstart's model without levers, with every tap in int16: the logits' squared error over their variance is
0.032 with what is in the biases, 0.0075 after one pass, 0.0049 after two, 0.0048 after three, and 0.0046 where int16
was asked for from the start."""
_LEVELS = Precision.INT8.levels


def bias_shifts(
    graph: onnx.ModelProto,
    record: QuantizeRecord,
    image: Callable[[int], F32],
    runs: int,
    progress: Callable[[int], None],
) -> dict[str, F64]:
    """Return, of each Conv that reads an int8 tap, Wq E[x - round(x)]: (out,).

    With correct_bias its bias has W E[x] - Wq E[round(x)] in it; for an int16 input that would be W E[x] - Wq E[x], and
    this is the difference. Expectations are over the columns that calibration draws. The first pass sees each x with
    the shifts of all layers before it still in their biases, where nothing is rounded; the next sees it without.

    Args:
        graph: the prepared float graph, whose weights are Wq.
        image: the input of run 0 to ``runs`` - 1, float32 (N, 3, H, W), normalised: those of calibration.
        progress: called with the number of runs done, over all passes.
    """
    found: dict[str, F64] = {}
    for done in range(PASSES):
        plain = without_shifts(graph, record, list(record.taps), found)

        def told(run: int, before: int = done * runs) -> None:
            progress(before + run)

        found = _shifts(plain, record, (image(i) for i in range(runs)), runs, told)
    return found


def _shifts(
    graph: onnx.ModelProto,
    record: QuantizeRecord,
    images: Iterable[F32],
    runs: int,
    progress: Callable[[int], None],
) -> dict[str, F64]:
    import numpy as np

    reading = Reading(graph)
    windows: dict[str, list[Window]] = {}
    of: dict[str, tuple[Kernel, str, Window, float]] = {}
    for tap in record.taps.values():
        for node in (reading.nodes[name] for name in tap.products):
            if tap.precision is Precision.INT8 and node.op_type == "Conv" and node.input[1] in reading.constants:
                kernel = Kernel.of(node, reading.constants)
                window = Window.of(node, (kernel.shape[2], kernel.shape[3]))
                of[node.name] = kernel, node.input[0], window, tap.scale
                windows.setdefault(node.input[0], [])
                windows[node.input[0]] += [window] if window not in windows[node.input[0]] else []
    seen = observe(graph, Wanted([], [], windows), images, runs, progress)
    found = {}
    for name, (kernel, tensor, window, step) in of.items():
        columns, scale = seen[tensor].drawn(window), np.float32(step)
        error = columns - np.clip(np.rint(columns / scale), -_LEVELS, _LEVELS) * scale
        mean = error.mean(axis=1, dtype=np.float64).reshape(len(kernel.rows), -1, 1)
        found[name] = (kernel.rows @ mean).reshape(-1)
    return found
