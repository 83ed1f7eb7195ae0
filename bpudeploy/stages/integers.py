"""quantize/integers: compares the network in a BPU's integer arithmetic with onnxruntime at every tap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Note, progress
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.spec.precision import Rounding
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.feed import Feed
from bpudeploy.stages.options import FieldOptions

IMAGES = 2
"""Maximum number of calibration images to compare: each gives every tap thousands of integers."""
_STEP = "quantize/integers"


@dataclass(frozen=True)
class IntegersOptions(FieldOptions):
    """The target's rounding."""

    rounding: Rounding


def integers(work: StepContext, options: IntegersOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Run the first calibration images in integers and in onnxruntime, and count the differing steps."""
    import onnx

    from bpudeploy.quantize.integer import compare_with_onnxruntime

    quantized, calibration, preprocess = inputs
    model = onnx.load(quantized.path)
    samples, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    feed = Feed.of(model, samples, normalise, IMAGES)
    found = compare_with_onnxruntime(model, feed, options.rounding, progress(work.emit, _STEP, len(feed), "runs"))
    work.emit(Note(_STEP, _summary(found)))
    return (found.write(work.dir / "integers.json"),)


def _summary(found: Agreement) -> str:
    taps = f"{len(found.taps)} taps"
    if found.within_one_step:
        text = f"integers and onnxruntime differ by at most one step on all {taps}"
    else:
        worst = found.exceptions[0]
        text = (
            f"integers and onnxruntime differ by more than one step on {len(found.exceptions)} of {taps}, "
            f"at most {found.taps[worst].forced.worst} ({worst})"
        )
    return f"{text}; {len(found.overflowed)} products overflow int32" if found.overflowed else text


INTEGERS = Stage(
    "integers",
    version=1,
    takes=(Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"findings": Kind.FINDINGS},
    run=integers,
    tools=("onnx", "onnxruntime", "numpy"),
)
