"""The proof: the rewritten graph under onnxruntime against the original model under torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.host import open_session
from bpudeploy.restructure.graph import LOGITS, PIXELS
from bpudeploy.restructure.record import Proof

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    from numpy.typing import NDArray

    from bpudeploy.restructure.vit import Rewritten

    F32 = NDArray[np.float32]

_SEED = 20_261_124


@dataclass(frozen=True)
class Reference:
    """The original: ``model`` in evaluation mode, its ``logits`` (N, classes), and its N normalised inputs.

    ``image(i)`` returns float32 (1, 3, H, W), the very input that gave ``logits[i]``.
    """

    model: torch.nn.Module
    logits: F32
    image: Callable[[int], F32]


def prove(
    rewritten: Rewritten,
    reference: Reference,
    *,
    tolerance: float,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Proof, F32]:
    """Run the rewritten graph on every image and return the proof with its own logits, (N, classes).

    Raises:
        StageError: a logit differs by more than ``tolerance`` times the range of the reference logits, or
            a top-1 differs; the message names the first place in the network that differs.
    """
    import numpy as np

    run = _session(rewritten.model)
    logits = np.empty_like(reference.logits)
    for index in range(len(logits)):
        logits[index] = run(reference.image(index))[0].reshape(-1)
        progress(index + 1)
    span = float(reference.logits.max() - reference.logits.min())
    by_image = np.abs(logits - reference.logits).max(axis=1) / span
    flipped = logits.argmax(axis=1) != reference.logits.argmax(axis=1)
    worst = int(np.where(np.isnan(by_image), np.inf, by_image).argmax())
    if not by_image[worst] <= tolerance:
        raise _failure(rewritten, reference.model, reference.image(worst), float(by_image[worst]), tolerance, worst)
    if flipped.any():
        raise StageError(
            f"the rewrite changes the top-1 of image {int(flipped.argmax())} of {len(logits)}",
            hint="lower restructure.tolerance to find where it differs",
        )
    noise = random_input(reference.image(0).shape)
    expected = infer(reference.model, noise)
    extra = float(np.abs(run(noise)[0].reshape(-1) - expected[0]).max() / np.ptp(expected))
    if not extra <= tolerance:
        raise _failure(rewritten, reference.model, noise, extra, tolerance, None)
    proof = Proof(
        images=len(logits),
        tolerance=tolerance,
        max_relative_difference=float(by_image[worst]),
        random_relative_difference=extra,
        top1_equal=len(logits),
    )
    return proof, logits


def random_input(shape: tuple[int, ...]) -> F32:
    """Return the one seeded input of unit normal pixels that every proof adds to its images."""
    import numpy as np

    return np.random.default_rng(_SEED).standard_normal(shape).astype(np.float32)


def infer(model: torch.nn.Module, pixels: F32) -> F32:
    """Return the logits (N, classes) of a torch model on normalised pixels float32 (N, 3, H, W)."""
    import numpy as np
    import torch

    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(pixels)).numpy(), dtype=np.float32)


def first_difference(rewritten: Rewritten, model: torch.nn.Module, pixels: F32, tolerance: float) -> str:
    """Name the first place where the two networks differ: the embedding, a block, or else the head.

    A place differs when worst |Δ| of its residual stream exceeds ``tolerance`` times that stream's range.
    """
    import numpy as np

    originals = _residuals(model, pixels)
    rewrites = _session(_with_outputs(rewritten.model, rewritten.taps))(pixels)[1:]
    names = ["patch_embed", *(f"blocks.{index}" for index in range(len(rewritten.taps) - 1))]
    for name, original, ours in zip(names, originals, rewrites, strict=True):
        centred = (original - original.mean(axis=2, keepdims=True)).transpose(0, 2, 1)[:, :, None, :]
        if not np.abs(centred - ours).max() <= tolerance * np.ptp(centred):
            return name
    return "the head"


def _failure(
    rewritten: Rewritten, model: torch.nn.Module, pixels: F32, difference: float, tolerance: float, image: int | None
) -> StageError:
    where = first_difference(rewritten, model, pixels, tolerance)
    which = "a random input" if image is None else f"image {image}"
    return StageError(
        f"the rewrite is not exact: on {which} the logits differ by {difference:.2e} of their range "
        f"(allowed {tolerance:.0e}); the first that differs is {where}",
        hint="raise restructure.tolerance if this is rounding alone (1e-5 is usual); otherwise report the model's name",
    )


def _residuals(model: torch.nn.Module, pixels: F32) -> list[NDArray[np.float32]]:
    """Return the residual stream (1, N, C) of the original before the first block and after each."""
    caught: list[NDArray[np.float32]] = []
    blocks = list(model.blocks)
    handles = [blocks[0].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].numpy().copy()))]
    for block in blocks:
        handles.append(block.register_forward_hook(lambda _, inputs, output: caught.append(output.numpy().copy())))
    try:
        infer(model, pixels)
    finally:
        for handle in handles:
            handle.remove()
    return caught


def _with_outputs(model: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """Return a copy of ``model`` whose outputs are its own and then ``names``."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in names:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def _session(model: onnx.ModelProto) -> Callable[[F32], list[F32]]:
    """Return a function from normalised pixels (1, 3, H, W) to the outputs of ``model``."""
    session = open_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    if names[0] != LOGITS:
        raise ValueError(f"the first output is {names[0]}")

    def run(pixels: F32) -> list[F32]:
        outputs: list[F32] = session.run(names, {PIXELS: pixels})
        return outputs

    return run
