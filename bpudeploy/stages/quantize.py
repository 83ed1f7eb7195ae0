"""quantize and quantize/scores: INT8 scales from the calibration set, and what INT8 costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.events import Note, Progress
from bpudeploy.host import batches, open_session
from bpudeploy.spec.recipe import Observer, QuantizeSpec
from bpudeploy.stage import Artifact, Kind, Stage, Work


@dataclass(frozen=True)
class QuantizeOptions:
    """``percentile`` is None unless the percentile observer reads it."""

    observer: Observer
    percentile: float | None

    @classmethod
    def of(cls, spec: QuantizeSpec) -> QuantizeOptions:
        """Keep what the chosen observer reads."""
        return cls(spec.observer, spec.percentile if spec.observer is Observer.PERCENTILE else None)

    def canonical(self) -> Mapping[str, Any]:
        return {"observer": self.observer.value, "percentile": self.percentile}


@dataclass(frozen=True)
class ScoreOptions:
    """Scoring has nothing to choose."""

    def canonical(self) -> Mapping[str, Any]:
        return {}


def quantize(work: Work, options: QuantizeOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Observe every tap on the calibration set in one pass and write the QDQ graph."""
    import onnx

    from bpudeploy.quantize.calibrate import observe
    from bpudeploy.quantize.observer import threshold
    from bpudeploy.quantize.qdq import to_qdq
    from bpudeploy.quantize.record import KEY, QuantizeRecord
    from bpudeploy.quantize.taps import find_taps
    from bpudeploy.restructure.record import GraphRecord

    graph, calibration, preprocess = inputs
    model = onnx.load(graph.path)
    taps = find_taps(model, frozenset(GraphRecord.read(model).keep_float))
    images, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    histograms = observe(
        model,
        taps.observed,
        (normalise.apply(images.pixels[chosen]) for chosen, _ in batches(len(images), batch)),
        lambda done: work.emit(Progress("quantize", min(done * batch, len(images)), len(images), "images")),
    )
    limits = {name: threshold(h, options.observer, options.percentile or 100.0) for name, h in histograms.items()}
    quantized = to_qdq(model, taps, limits)
    record = QuantizeRecord(
        observer=options.observer.value, images=len(images), thresholds=limits, int8_nodes=taps.nodes
    )
    quantized.metadata_props.add(key=KEY, value=record.model_dump_json())
    onnx.save(quantized, work.dir / "quantized.onnx")
    work.emit(
        Note(
            "quantize",
            f"{len(taps.nodes)} of {len(model.graph.node)} nodes in int8, {len(limits)} activation scales "
            f"({options.observer}) from {len(images)} images",
        )
    )
    return (work.dir / "quantized.onnx",)


def score_quantized(work: Work, options: ScoreOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Score the evaluation set with the QDQ graph in onnxruntime, on this machine."""
    import numpy as np

    quantized, preprocess, samples = inputs
    images, normalise = Samples.read(samples.path), Normalisation.read(preprocess.path)
    session = open_session(str(quantized.path))
    (fed,) = (value.name for value in session.get_inputs())
    rows = []
    for chosen, kept in batches(len(images), session.get_inputs()[0].shape[0]):
        made = session.run(None, {fed: normalise.apply(images.pixels[chosen])})[0]
        rows.append(made.reshape(len(chosen), -1)[:kept])
        work.emit(Progress("quantize/scores", chosen[0] + kept, len(images), "images"))
    scores = Scores(np.concatenate(rows), images.labels)
    work.emit(Note("quantize/scores", f"int8 top-1 {100 * scores.top1:.2f} % of {len(images)} images"))
    return (scores.write(work.dir / "scores.safetensors"),)


QUANTIZE = Stage(
    "quantize",
    version=1,
    takes=(Kind.GRAPH, Kind.SAMPLES, Kind.PREPROCESS),
    gives=(Kind.QUANTIZED,),
    run=quantize,
    tools=("onnx", "onnxruntime", "numpy"),
)
SCORE_QUANTIZED = Stage(
    "scores",
    version=1,
    takes=(Kind.QUANTIZED, Kind.PREPROCESS, Kind.SAMPLES),
    gives=(Kind.SCORES,),
    run=score_quantized,
    tools=("onnxruntime",),
)
