"""quantize/golden: a few images of the evaluation set with what the quantized network says to them on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Samples, Scores
from bpudeploy.stage import Artifact, Kind, Stage, Work

IMAGES = 8
"""Images that a board answers after each activation: seconds of work, a megabyte to send."""


@dataclass(frozen=True)
class GoldenOptions:
    """There is nothing to choose."""

    def canonical(self) -> Mapping[str, Any]:
        return {"images": IMAGES}


def golden(work: Work, options: GoldenOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Take images evenly from the set: uint8 pixels (8, H, W, 3) or fewer, and their logits, float32 (8, classes)."""
    import numpy as np
    from safetensors.numpy import save_file

    evaluation, scored = inputs
    samples, scores = Samples.read(evaluation.path), Scores.read(scored.path)
    chosen = np.unique(np.linspace(0, len(samples) - 1, IMAGES).astype(int))
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
