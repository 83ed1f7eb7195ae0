"""quantize/golden: a few evaluation images with the quantized network's outputs on the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.samples import Samples, Scores
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.options import FieldOptions


@dataclass(frozen=True)
class GoldenOptions(FieldOptions):
    """``images``: how many a board runs after each activation: seconds of work, about a megabyte to send."""

    images: int = 8


def golden(work: StepContext, options: GoldenOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Select images evenly: uint8 pixels (N, H, W, 3), and their logits, float32 (N, classes)."""
    import numpy as np
    from safetensors.numpy import save_file

    evaluation, scored = inputs
    samples, scores = Samples.read(evaluation.path), Scores.read(scored.path)
    chosen = np.unique(np.linspace(0, len(samples) - 1, options.images).astype(int))
    images = work.dir / "golden.safetensors"
    pixels = np.ascontiguousarray(samples.pixels[chosen])
    save_file({"pixels": pixels, "labels": samples.labels[chosen]}, images)
    answers = Scores(np.ascontiguousarray(scores.logits[chosen]), scores.labels[chosen])
    return images, answers.write(work.dir / "scores.safetensors")


GOLDEN = Stage(
    "golden",
    version=1,
    takes=(Kind.SAMPLES, Kind.SCORES),
    gives={"images": Kind.SAMPLES, "logits": Kind.SCORES},
    run=golden,
    tools=("numpy", "safetensors"),
)
