"""The pass over the calibration set: run the float graph with all taps, and keep what each needs, in fixed memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.host import open_session
from bpudeploy.quantize.observer import Histogram, largest_of
from bpudeploy.quantize.patches import Window
from bpudeploy.quantize.taps import Reading

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

COLUMNS = 1024
"""Input columns kept of each convolution, over all images: enough to rebuild its inputs' covariance, whatever their
number."""


@dataclass
class Seen:
    """What calibration keeps of one tensor.

    ``histogram`` stays empty and only ``maximum`` is kept where that is all that is wanted.
    ``peaks``: largest |x| of each channel (axis 1). ``columns``: for each window by which a convolution reads the
    tensor, float32 (C * kh * kw, k): its input at positions drawn at random, at most ``COLUMNS`` in all.
    """

    histogram: Histogram = field(default_factory=Histogram)
    maximum: float = 0.0
    peaks: F32 | None = None
    columns: dict[Window, list[F32]] = field(default_factory=dict)

    def look(self, value: F32, whole: bool) -> None:
        """Take in ``value``: its histogram, or its largest |x| only.

        Raises:
            ValueError: it is not finite.
        """
        if whole:
            self.histogram.add(value)
            self.maximum = self.histogram.maximum
        else:
            self.maximum = max(self.maximum, largest_of(value))

    def drawn(self, window: Window) -> F32:
        """Return the columns of one window."""
        import numpy as np

        return np.concatenate(self.columns[window], axis=1)


ConvInputs = Mapping[str, tuple[str, Window]]
"""Of a Conv the tensor that it reads, and the window by which it does."""


def conv_inputs(reading: Reading, nodes: Iterable[str]) -> dict[str, tuple[str, Window]]:
    """Return what those of ``nodes`` read that are Convs with constant weights."""
    found = {}
    for node in (reading.nodes[name] for name in nodes):
        if node.op_type == "Conv" and node.input[1] in reading.constants:
            rows, columns = reading.constants[node.input[1]].dims[2:]
            found[node.name] = (node.input[0], Window.of(node, (rows, columns)))
    return found


def windows(inputs: ConvInputs) -> dict[str, list[Window]]:
    """Return by which windows each tensor is read, each once."""
    found: dict[str, dict[Window, None]] = {}
    for tensor, window in inputs.values():
        found.setdefault(tensor, {})[window] = None
    return {tensor: list(once) for tensor, once in found.items()}


@dataclass(frozen=True)
class Wanted:
    """What is to be kept: the histogram of each of ``histograms``, of ``peaks`` the largest |x| only, and columns."""

    histograms: Sequence[str]
    peaks: Sequence[str]
    columns: Mapping[str, Sequence[Window]]

    @property
    def tensors(self) -> list[str]:
        """Every tensor that is looked at, once."""
        return list(dict.fromkeys([*self.histograms, *self.peaks, *self.columns]))


def observe(
    model: onnx.ModelProto,
    wanted: Wanted,
    images: Iterable[F32],
    runs: int,
    progress: Callable[[int], None],
) -> dict[str, Seen]:
    """Return what ``wanted`` names of every tensor, over all ``images``.

    Args:
        images: float32 (N, 3, H, W), normalised; one run of the graph each.
        runs: how many there are; each gives its share of the columns.

    Raises:
        StageError: a tensor is not finite; it is named, and so is the image's number.
    """
    import numpy as np

    session, inside = tapped(model, wanted.tensors)
    (fed,) = (value.name for value in session.get_inputs())
    found = {name: Seen() for name in wanted.tensors}
    rng, share = np.random.default_rng(0), -(-COLUMNS // max(runs, 1))
    whole = frozenset(wanted.histograms)
    for done, image in enumerate(images, 1):
        made = session.run(inside, {fed: image}) if inside else []
        values = dict(zip(inside, made, strict=True)) | {fed: image}
        for name, seen in found.items():
            try:
                seen.look(values[name], name in whole)
            except ValueError as error:
                raise StageError(
                    f"calibration image {done} makes {name} infinite or NaN",
                    hint="check the weights and the preprocessing",
                ) from error
            if name in wanted.columns:
                _keep(seen, values[name], wanted.columns[name], share, rng)
        progress(done)
    return found


def tapped(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[Any, list[str]]:
    """Open ``model`` with ``tensors`` as its outputs; return the session and those that are not its input."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {value.name for value in copy.graph.input}
    inside = [name for name in tensors if name not in inputs]
    del copy.graph.output[:]
    for name in inside:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(copy.SerializeToString()), inside


def _keep(seen: Seen, value: F32, windows: Sequence[Window], share: int, rng: np.random.Generator) -> None:
    import numpy as np

    peaks = np.maximum(value.max(axis=(0, 2, 3)), -value.min(axis=(0, 2, 3)))
    seen.peaks = peaks if seen.peaks is None else np.maximum(seen.peaks, peaks)
    for window in windows:
        kept = seen.columns.setdefault(window, [])
        room = COLUMNS - sum(part.shape[1] for part in kept)
        if room > 0:
            kept.append(window.draw(value, min(share, room), rng))
