"""The proof: the rewritten graph under onnxruntime against the original, on every image and on noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.host import batches, open_session
from bpudeploy.restructure.locate import first_difference
from bpudeploy.restructure.record import Proof
from bpudeploy.restructure.rewrite import Reading

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

_SEED = 20_261_124


@dataclass(frozen=True)
class Reference:
    """What the original says.

    ``answers`` has one array (images, ...) for each output; ``feeds(i)`` is the normalised input of image i,
    float32 (1, 3, H, W). ``noise`` are the outputs for ``random_input``. ``original`` gives the network as
    ONNX with its weights, in which a failed proof looks for the first layer that differs.
    """

    answers: Sequence[F32]
    feeds: Callable[[int], F32]
    noise: Sequence[F32]
    original: Callable[[], onnx.ModelProto]


def prove(
    graph: Path,
    reading: Reading,
    reference: Reference,
    *,
    tolerance: float,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Proof, list[F32]]:
    """Run the rewritten ``graph`` (.onnx) on every image and return the proof with its own answers.

    Raises:
        StageError: an output differs by more than ``tolerance`` times the range of the original's, or a top-1
            differs; the message names the first layer that differs.
    """
    import numpy as np

    run, shape = _runner(graph, reading)
    batch = shape[0]
    answers: list[F32] = [np.empty_like(a) for a in reference.answers]
    count = len(answers[0])
    for chosen, kept in batches(count, batch):
        made = run(np.concatenate([reference.feeds(i) for i in chosen]))
        for answer, output in zip(answers, made, strict=True):
            answer[chosen[:kept]] = output.reshape(batch, *answer.shape[1:])[:kept]
        progress(chosen[0] + kept)
    worst, at = _worst(answers, reference.answers)
    if not worst <= tolerance:
        raise _failure(graph, reading, reference, [reference.feeds(at)] * batch, worst, tolerance, f"image {at}")
    ranked = len(answers) == 1 and answers[0].ndim == 2
    if ranked:
        _hold_top1(answers[0], reference.answers[0])
    noise = random_input(shape)
    extra, _ = _worst(run(noise), reference.noise)
    if not extra <= tolerance:
        raise _failure(graph, reading, reference, [noise], extra, tolerance, "a random input")
    return (
        Proof(
            images=count,
            tolerance=tolerance,
            max_relative_difference=worst,
            random_relative_difference=extra,
            top1_equal=count if ranked else None,
        ),
        answers,
    )


def _runner(graph: Path, reading: Reading) -> tuple[Callable[[F32], list[F32]], tuple[int, ...]]:
    """Return a function from normalised pixels (N, 3, H, W) to the original's outputs, and that shape."""
    import numpy as np

    session = open_session(str(graph), lean=True)
    (fed,) = session.get_inputs()
    names = [output.name for output in reading.outputs]

    def run(pixels: F32) -> list[F32]:
        made = session.run(names, {fed.name: np.ascontiguousarray(pixels, np.float32)})
        return [output.read(array) for output, array in zip(reading.outputs, made, strict=True)]

    return run, tuple(fed.shape)


def random_input(shape: Sequence[int]) -> F32:
    """Return the one seeded input of unit normal pixels that every proof adds to its images."""
    import numpy as np

    return np.random.default_rng(_SEED).standard_normal(tuple(shape)).astype(np.float32)


def _worst(ours: Sequence[F32], theirs: Sequence[F32]) -> tuple[float, int]:
    """Return the largest |difference| over the range of its output, and the image where it is."""
    import numpy as np

    worst, at = 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        span = float(np.ptp(other)) or 1.0
        by_image = np.abs(mine.reshape(other.shape) - other).reshape(len(other), -1).max(axis=1) / span
        by_image = np.where(np.isnan(by_image), np.inf, by_image)
        if by_image.max() > worst:
            worst, at = float(by_image.max()), int(by_image.argmax())
    return worst, at


def _hold_top1(ours: F32, theirs: F32) -> None:
    flipped = ours.argmax(axis=1) != theirs.argmax(axis=1)
    if flipped.any():
        raise StageError(
            f"the rewrite changes the top-1 of image {int(flipped.argmax())} of {len(ours)}",
            hint="lower restructure.tolerance to find where it differs",
        )


def _failure(
    graph: Path,
    reading: Reading,
    reference: Reference,
    feed: Sequence[F32],
    difference: float,
    tolerance: float,
    which: str,
) -> StageError:
    import numpy as np
    import onnx

    where = first_difference(onnx.load(graph), reading, reference.original(), np.concatenate(feed), tolerance)
    return StageError(
        f"the rewrite is not exact: on {which} the outputs differ by {difference:.2e} of their range "
        f"(allowed {tolerance:.0e}); {where}",
        hint="raise restructure.tolerance if this is rounding alone (1e-5 is usual); otherwise report the model's name",
    )
