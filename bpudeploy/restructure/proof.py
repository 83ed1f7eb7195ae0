"""Verify that the rewritten graph equals the original on every evaluation image and one random input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.host import batches, open_session
from bpudeploy.restructure.first_difference import first_difference
from bpudeploy.restructure.record import Proof
from bpudeploy.restructure.rewrite import TensorMap

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

_SEED = 20_261_124


@dataclass(frozen=True)
class Reference:
    """The original's outputs.

    ``outputs`` has one array (images, ...) per output; ``input_of(i)`` is the normalised input of image i, float32
    (1, 3, H, W). ``random_outputs`` are the outputs for ``random_input``. ``original`` returns the ONNX model with
    weights, in which a failed proof searches the first layer that differs.
    """

    outputs: Sequence[F32]
    input_of: Callable[[int], F32]
    random_outputs: Sequence[F32]
    original: Callable[[], onnx.ModelProto]


def prove(
    graph: Path,
    tensor_map: TensorMap,
    reference: Reference,
    *,
    tolerance: float,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Proof, list[F32]]:
    """Run the rewritten ``graph`` (.onnx) on every image; return the proof and the outputs.

    Raises:
        StageError: an output differs by more than ``tolerance`` times its range, or a top-1 differs; the message
            names the first layer that differs.
    """
    import numpy as np
    import onnx

    shape, run = _runner(graph, tensor_map)
    batch = shape[0]
    outputs: list[F32] = [np.empty_like(a) for a in reference.outputs]
    count = len(outputs[0])
    for chosen, kept in batches(count, batch):
        results = run(np.concatenate([reference.input_of(i) for i in chosen]))
        for output, result in zip(outputs, results, strict=True):
            output[chosen[:kept]] = result.reshape(batch, *output.shape[1:])[:kept]
        progress(chosen[0] + kept)

    def failure(difference: float, on: str, pixels: F32) -> StageError:
        where = first_difference(onnx.load(graph), tensor_map, reference.original(), pixels, tolerance)
        return StageError(
            f"the rewrite is not exact: on {on} the outputs differ by {difference:.2e} of their range "
            f"(allowed {tolerance:.0e}); {where}",
            hint="raise restructure.tolerance if this is only rounding (1e-5 is usual); otherwise report the model's "
            "name",
        )

    worst, at = max_difference(outputs, reference.outputs)
    if not worst <= tolerance:
        raise failure(worst, f"image {at}", np.concatenate([reference.input_of(at)] * batch))
    classifies = len(outputs) == 1 and outputs[0].ndim == 2
    if classifies:
        check_top1(outputs[0], reference.outputs[0])
    noise = random_input(shape)
    extra, _ = max_difference(run(noise), reference.random_outputs)
    if not extra <= tolerance:
        raise failure(extra, "a random input", noise)
    return (
        Proof(
            images=count,
            tolerance=tolerance,
            max_relative_difference=worst,
            random_relative_difference=extra,
            top1_equal=count if classifies else None,
        ),
        outputs,
    )


def _runner(graph: Path, tensor_map: TensorMap) -> tuple[tuple[int, ...], Callable[[F32], list[F32]]]:
    """Return the shape of the graph's input, and a function that runs it and reads its outputs as the original's."""
    import numpy as np

    session = open_session(str(graph), lean=True)
    (image,) = session.get_inputs()
    names = [output.name for output in tensor_map.outputs]

    def run(pixels: F32) -> list[F32]:
        arrays = session.run(names, {image.name: np.ascontiguousarray(pixels, np.float32)})
        return [output.read(array) for output, array in zip(tensor_map.outputs, arrays, strict=True)]

    return tuple(image.shape), run


def random_input(shape: Sequence[int]) -> F32:
    """Return the seeded input of standard normal pixels that every proof also runs."""
    import numpy as np

    return np.random.default_rng(_SEED).standard_normal(tuple(shape)).astype(np.float32)


def max_difference(ours: Sequence[F32], theirs: Sequence[F32]) -> tuple[float, int]:
    """Return the largest |difference| relative to its output's range, and the index of its image."""
    import numpy as np

    worst, at = 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        span = float(np.ptp(other)) or 1.0
        by_image = np.abs(mine.reshape(other.shape) - other).reshape(len(other), -1).max(axis=1) / span
        by_image = np.where(np.isnan(by_image), np.inf, by_image)
        if by_image.max() > worst:
            worst, at = float(by_image.max()), int(by_image.argmax())
    return worst, at


def check_top1(ours: F32, theirs: F32) -> None:
    """Raise StageError if an image has another top-1."""
    flipped = ours.argmax(axis=1) != theirs.argmax(axis=1)
    if flipped.any():
        raise StageError(
            f"the rewrite changes the top-1 of image {int(flipped.argmax())} of {len(ours)}",
            hint="lower restructure.tolerance to find where it differs",
        )
