"""quantize/layers: compares each layer of the quantized network with float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Event, Note, progress
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.feed import Feed
from bpudeploy.stages.options import NoOptions

if TYPE_CHECKING:
    from bpudeploy.quantize.findings import LayerReport

IMAGES = 8
"""Maximum number of calibration images to compare."""
_STEP = "quantize/layers"


def layers(work: StepContext, options: NoOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Compare each product of the quantized network with the float graph on the first calibration images."""
    graph, quantized, calibration, preprocess = inputs
    samples, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    found = compare_layers(graph.path, quantized.path, samples, normalise, IMAGES, _STEP, work.emit)
    for worst in found.layers[:1]:
        work.emit(Note(_STEP, f"the worst of {len(found.layers)}: {worst.node}, {worst.sqnr_db:.1f} dB"))
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


LAYERS = Stage(
    "layers",
    version=1,
    takes=(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"findings": Kind.FINDINGS},
    run=layers,
    tools=("onnx", "onnxruntime", "numpy"),
)
