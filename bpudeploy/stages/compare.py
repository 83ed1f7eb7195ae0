"""quantize/layers and quantize/integers: the quantized network compared with float, and with a BPU's integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Event, Note, progress
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.spec.precision import Rounding
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.feed import Feed
from bpudeploy.stages.options import FieldOptions, NoOptions

if TYPE_CHECKING:
    from bpudeploy.quantize.findings import LayerReport

LAYER_IMAGES = 8
"""Maximum number of calibration images to compare layers on."""
INTEGER_IMAGES = 2
"""Maximum number of calibration images to compare integers on: each gives every tap thousands of them."""
_LAYERS, _INTEGERS = "quantize/layers", "quantize/integers"


def layers(work: StepContext, options: NoOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Compare each product of the quantized network with the float graph on the first calibration images."""
    graph, quantized, calibration, preprocess = inputs
    samples, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    found = compare_layers(graph.path, quantized.path, samples, normalise, LAYER_IMAGES, _LAYERS, work.emit)
    for worst in found.layers[:1]:
        work.emit(Note(_LAYERS, f"the worst of {len(found.layers)}: {worst.node}, {worst.sqnr_db:.1f} dB"))
    return (found.write(work.dir / "layers.json"),)


def compare_layers(
    graph: Path,
    quantized: Path,
    samples: Samples,
    normalise: Normalisation,
    count: int,
    step: str,
    emit: Callable[[Event], None],
) -> LayerReport:
    """Compare the layers of a float and a quantized graph on the first ``count`` images."""
    import onnx

    from bpudeploy.quantize.deviation import layer_deviations

    model = onnx.load(graph)
    images = list(Feed.of(model, samples, normalise, count))
    return layer_deviations(model, onnx.load(quantized), images, progress(emit, step, len(images), "runs"))


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
    feed = Feed.of(model, samples, normalise, INTEGER_IMAGES)
    found = compare_with_onnxruntime(model, feed, options.rounding, progress(work.emit, _INTEGERS, len(feed), "runs"))
    work.emit(Note(_INTEGERS, _summary(found)))
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


COMPARE_LAYERS = Stage(
    "layers",
    version=1,
    takes=(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"findings": Kind.FINDINGS},
    run=layers,
    tools=("onnx", "onnxruntime", "numpy"),
)
COMPARE_INTEGERS = Stage(
    "integers",
    version=1,
    takes=(Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"findings": Kind.FINDINGS},
    run=integers,
    tools=("onnx", "onnxruntime", "numpy"),
)
