"""quantize, quantize/scores and quantize/golden: quantization on the calibration set, its accuracy, a few outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores, spread
from bpudeploy.conformance.cost import multiply_accumulates
from bpudeploy.conformance.placement import cpu_only_nodes
from bpudeploy.events import Note, Progress, progress
from bpudeploy.host import open_session
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import Observer, QuantizeSpec
from bpudeploy.spec.target import March
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.feed import Feed, run_all
from bpudeploy.stages.options import FieldOptions, NoOptions

if TYPE_CHECKING:
    from bpudeploy.quantize.record import QuantizeRecord


@dataclass(frozen=True)
class QuantizeOptions:
    """The recipe's quantize section, and the rules of the target's march."""

    spec: QuantizeSpec
    march: March
    rules: PrecisionRules

    def canonical(self) -> Mapping[str, Any]:
        """Leave out unused fields: a percentile without its observer, the limits of repair."""
        unused = {"repair", "max_slowdown"}
        if self.spec.observer is not Observer.PERCENTILE:
            unused.add("percentile")
        return {
            "march": self.march.value,
            "rules": self.rules.model_dump(mode="json", exclude={"rounding"}),
            **self.spec.model_dump(mode="json", exclude=unused),
        }


def quantize(work: StepContext, options: QuantizeOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Observe every tap on the calibration set in one pass; write the prepared float graph and its QDQ form.

    Raises:
        StageError: a tensor is not finite, or the migrated graph is not equivalent.
    """
    import onnx

    from bpudeploy.quantize.scheme import quantize_graph
    from bpudeploy.restructure.record import GraphRecord

    graph, calibration, preprocess = inputs
    model = onnx.load(graph.path)
    images, normalise = Samples.read(calibration.path), Normalisation.read(preprocess.path)
    feed = Feed.of(model, images, normalise)
    batch = len(feed.runs[0])
    made = quantize_graph(
        model,
        GraphRecord.read(model).keep_float,
        cpu_only_nodes(model, options.march),
        options.rules,
        options.spec,
        feed.batch,
        len(feed),
        lambda done: work.emit(Progress("quantize", min(done * batch, len(images)), len(images), "images")),
        multiply_accumulates(model),
    )
    record = made.record.model_copy(update={"images": len(images)})
    record.write(made.qdq)
    onnx.save(made.prepared, work.dir / "prepared.onnx")
    onnx.save(made.qdq, work.dir / "quantized.onnx")
    work.emit(Note("quantize", _summary(record, len(model.graph.node))))
    for technique in record.levers:
        work.emit(Note("quantize", technique))
    return work.dir / "prepared.onnx", work.dir / "quantized.onnx"


def _summary(record: QuantizeRecord, nodes: int) -> str:
    found = [tap.precision for tap in record.taps.values()]
    counts = ", ".join(f"{found.count(p)} {p}" for p in (Precision.INT8, Precision.INT16) if p in found)
    return f"{len(record.products)} of {nodes} nodes quantized; activations: {counts}; {record.images} images"


def score_quantized(work: StepContext, options: NoOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Score the evaluation set with the QDQ graph in onnxruntime on this machine."""
    quantized, preprocess, samples = inputs
    images, normalise = Samples.read(samples.path), Normalisation.read(preprocess.path)
    report = progress(work.emit, "quantize/scores", len(images), "images")
    scores = score(str(quantized.path), images, normalise, report)
    work.emit(Note("quantize/scores", f"int8 top-1 {100 * scores.top1:.2f} % of {len(images)} images"))
    return (scores.write(work.dir / "scores.safetensors"),)


def score(model: str | bytes, images: Samples, normalise: Normalisation, progress: Callable[[int], None]) -> Scores:
    """Run a graph on every image on this machine; ``progress`` is called with the number of images done."""
    import numpy as np

    rows = []
    for done, (logits, *_) in run_all(open_session(model), images, normalise):
        rows.append(logits.reshape(len(logits), -1))
        progress(done)
    return Scores(np.concatenate(rows), images.labels)


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
    chosen = spread(len(samples), options.images)
    images = work.dir / "golden.safetensors"
    pixels = np.ascontiguousarray(samples.pixels[chosen])
    save_file({"pixels": pixels, "labels": samples.labels[chosen]}, images)
    answers = Scores(np.ascontiguousarray(scores.logits[chosen]), scores.labels[chosen])
    return images, answers.write(work.dir / "scores.safetensors")


QUANTIZE = Stage(
    "quantize",
    version=19,
    takes=(Kind.GRAPH, Kind.SAMPLES, Kind.PREPROCESS),
    gives={"prepared": Kind.GRAPH, "quantized": Kind.QUANTIZED},
    run=quantize,
    tools=("onnx", "onnxruntime", "numpy"),
)
SCORE_QUANTIZED = Stage(
    "scores",
    version=1,
    takes=(Kind.QUANTIZED, Kind.PREPROCESS, Kind.SAMPLES),
    gives={"scores": Kind.SCORES},
    run=score_quantized,
    tools=("onnxruntime",),
)
TAKE_GOLDEN = Stage(
    "golden",
    version=1,
    takes=(Kind.SAMPLES, Kind.SCORES),
    gives={"images": Kind.SAMPLES, "logits": Kind.SCORES},
    run=golden,
    tools=("numpy", "safetensors"),
)
