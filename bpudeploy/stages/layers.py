"""quantize/layers: how far each layer of the quantized network is from float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Event, Note, Progress
from bpudeploy.quantize.findings import LayerReport
from bpudeploy.stage import Artifact, Kind, Stage, Work
from bpudeploy.stages.feed import Feed

IMAGES = 8
"""Calibration images that are looked at, at most."""
_STEP = "quantize/layers"


@dataclass(frozen=True)
class LayersOptions:
    """Looking has nothing to choose."""

    def canonical(self) -> Mapping[str, Any]:
        return {}


def layers(work: Work, options: LayersOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Hold each product of the quantized network against the float graph, on the first calibration images."""
    graph, quantized, calibration, preprocess = inputs
    samples, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    found = look(graph.path, quantized.path, samples, normalise, IMAGES, _STEP, work.emit)
    for worst in found.layers[:1]:
        work.emit(Note(_STEP, f"the worst of {len(found.layers)}: {worst.node}, {worst.sqnr_db:.1f} dB"))
    return (found.write(work.dir / "layers.json"),)


def look(
    graph: Path,
    quantized: Path,
    samples: Samples,
    normalise: Normalisation,
    count: int,
    step: str,
    emit: Callable[[Event], None],
) -> LayerReport:
    """Hold the layers of two graphs against each other on the first ``count`` images."""
    import onnx

    from bpudeploy.quantize.deviation import layer_deviations

    model = onnx.load(graph)
    images = list(Feed.of(model, samples, normalise, count))
    return layer_deviations(
        model, onnx.load(quantized), images, lambda done: emit(Progress(step, done, len(images), "runs"))
    )


LAYERS = Stage(
    "layers",
    version=1,
    takes=(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"findings": Kind.FINDINGS},
    run=layers,
    tools=("onnx", "onnxruntime", "numpy"),
)
