"""The calibration pass: run the float graph with all taps as outputs, and collect statistics in fixed memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from bpudeploy.errors import StageError
from bpudeploy.host import open_with_outputs
from bpudeploy.quantize.arrays import F32
from bpudeploy.quantize.observer import Histogram, abs_max
from bpudeploy.quantize.taps import GraphIndex
from bpudeploy.quantize.window import Window

COLUMNS = 1024
"""Input columns sampled per convolution over all images: enough to estimate the covariance of its inputs."""


@dataclass
class TensorStatistics:
    """Calibration statistics of one tensor.

    ``histogram`` stays empty if only ``maximum`` is requested. ``peaks``: the largest |x| per channel (axis 1).
    ``columns``: by window of the convolutions that read the tensor, float32 (C * kh * kw, k): its input at random
    positions, at most ``COLUMNS`` in total.
    """

    histogram: Histogram = field(default_factory=Histogram)
    maximum: float = 0.0
    peaks: F32 | None = None
    columns: dict[Window, list[F32]] = field(default_factory=dict)

    def update(self, value: F32, *, with_histogram: bool) -> None:
        """Add ``value`` to the histogram, or to the maximum only.

        Raises:
            ValueError: a value is not finite.
        """
        if with_histogram:
            self.histogram.add(value)
            self.maximum = self.histogram.maximum
        else:
            self.maximum = max(self.maximum, abs_max(value))

    def sample(self, value: F32, windows: Collection[Window], share: int, rng: np.random.Generator) -> None:
        """Update the peaks, and sample up to ``share`` columns per window."""
        peaks = np.maximum(value.max(axis=(0, 2, 3)), -value.min(axis=(0, 2, 3)))
        self.peaks = peaks if self.peaks is None else np.maximum(self.peaks, peaks)
        for window in windows:
            kept = self.columns.setdefault(window, [])
            left = COLUMNS - sum(part.shape[1] for part in kept)
            if left > 0:
                kept.append(window.sample(value, min(share, left), rng))

    def sampled(self, window: Window) -> F32:
        """Return all sampled columns of one window."""
        return np.concatenate(self.columns[window], axis=1)


ConvInputs = Mapping[str, tuple[str, Window]]
"""By Conv: the tensor that it reads, and its window."""


def conv_inputs(index: GraphIndex, nodes: Iterable[str]) -> dict[str, tuple[str, Window]]:
    """Return the inputs of the Convs with constant weights among ``nodes``."""
    found = {}
    for node in (index.nodes[name] for name in nodes):
        if node.op_type == "Conv" and node.input[1] in index.constants:
            rows, columns = index.constants[node.input[1]].dims[2:]
            found[node.name] = (node.input[0], Window.of(node, (rows, columns)))
    return found


def windows_by_tensor(inputs: ConvInputs) -> Mapping[str, Collection[Window]]:
    """Return the distinct windows by which each tensor is read."""
    found: dict[str, dict[Window, None]] = {}
    for tensor, window in inputs.values():
        found.setdefault(tensor, {})[window] = None
    return found


@dataclass(frozen=True)
class StatisticsRequest:
    """The tensors to collect a full histogram of, those of which only the largest |x|, and the windows to sample."""

    histograms: Sequence[str]
    peaks: Sequence[str]
    columns: Mapping[str, Collection[Window]]

    @property
    def tensors(self) -> list[str]:
        """All distinct tensors."""
        return list(dict.fromkeys([*self.histograms, *self.peaks, *self.columns]))


def observe(
    model: onnx.ModelProto,
    request: StatisticsRequest,
    images: Iterable[F32],
    runs: int,
    progress: Callable[[int], None],
) -> dict[str, TensorStatistics]:
    """Collect the requested statistics over all ``images``, by tensor.

    Args:
        images: float32 (N, 3, H, W), normalised; one run of the graph each.
        runs: the number of runs, among which the sampled columns are divided.

    Raises:
        StageError: a tensor is not finite; the message names it and the image's number.
    """
    (fed,) = (value.name for value in model.graph.input)
    inside = [name for name in request.tensors if name != fed]
    session = open_with_outputs(model, inside, only=True)
    found = {name: TensorStatistics() for name in request.tensors}
    rng, share = np.random.default_rng(0), -(-COLUMNS // max(runs, 1))
    histograms = frozenset(request.histograms)
    for done, image in enumerate(images, 1):
        results = session.run(inside, {fed: image}) if inside else []
        values = dict(zip(inside, results, strict=True)) | {fed: image}
        for name, statistics in found.items():
            try:
                statistics.update(values[name], with_histogram=name in histograms)
            except ValueError as error:
                raise StageError(
                    f"calibration image {done} makes {name} infinite or NaN",
                    hint="check the weights and the preprocessing",
                ) from error
            if name in request.columns:
                statistics.sample(values[name], request.columns[name], share, rng)
        progress(done)
    return found
