"""quantize/integers: the quantized network in a BPU's integers, held against onnxruntime at every tap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Note, Progress
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.spec.precision import Rounding
from bpudeploy.stage import Artifact, Kind, Stage, Work
from bpudeploy.stages.feed import Feed

IMAGES = 2
"""Calibration images that are compared, at most: each gives every tap thousands of integers."""
_STEP = "quantize/integers"


@dataclass(frozen=True)
class IntegersOptions:
    """How the target rounds."""

    rounding: Rounding

    def canonical(self) -> Mapping[str, Any]:
        return {"rounding": self.rounding}


def integers(work: Work, options: IntegersOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Run the first calibration images in integers and in onnxruntime, and count the steps between them."""
    import onnx

    from bpudeploy.quantize.integer import compare_with_onnxruntime

    quantized, calibration, preprocess = inputs
    model = onnx.load(quantized.path)
    samples, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    feed = Feed.of(model, samples, normalise, IMAGES)
    found = compare_with_onnxruntime(
        model, feed, options.rounding, lambda done: work.emit(Progress(_STEP, done, len(feed), "runs"))
    )
    work.emit(Note(_STEP, _said(found)))
    return (found.write(work.dir / "integers.json"),)


def _said(found: Agreement) -> str:
    taps = f"{len(found.taps)} taps"
    if found.within_one_step:
        said = f"integers and onnxruntime are within one step on each of {taps}"
    else:
        name = found.exceptions[0]
        said = (
            f"integers and onnxruntime are more than one step apart on {len(found.exceptions)} of {taps}, "
            f"at most {found.taps[name].forced.worst} ({name})"
        )
    return f"{said}; {len(found.overflowed)} products overflow int32" if found.overflowed else said


INTEGERS = Stage(
    "integers",
    version=1,
    takes=(Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"findings": Kind.FINDINGS},
    run=integers,
    tools=("onnx", "onnxruntime", "numpy"),
)
