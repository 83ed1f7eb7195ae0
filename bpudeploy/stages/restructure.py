"""restructure/reference and restructure: what the original says, and the exact 4-D form that says the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.stage import Artifact, Kind, Stage, Work


@dataclass(frozen=True)
class ReferenceOptions:
    """The reference has nothing to choose."""

    def canonical(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class RestructureOptions:
    """``tolerance``: worst allowed |difference| over the range of the reference logits."""

    tolerance: float

    def canonical(self) -> Mapping[str, Any]:
        return asdict(self)


def reference(work: Work, options: ReferenceOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Score the evaluation set with the original model, float32, in the framework that it was trained in.

    Raises:
        StageError: the model's classes are not as many as the dataset's.
    """
    import numpy as np

    from bpudeploy.restructure.proof import infer
    from bpudeploy.stages.timm_models import load_model

    model, preprocess, samples = inputs
    network, meta = load_model(model.path)
    images, normalise = Samples.read(samples.path), Normalisation.read(preprocess.path)
    if meta.num_classes != len(images.classes):
        raise StageError(
            f"the model has {meta.num_classes} classes, the dataset {len(images.classes)}",
            hint="dataset.classes names all of the model's classes in its order; a backbone needs a model.head",
        )
    rows = []
    for i in range(len(images)):
        rows.append(infer(network, normalise.apply(images.pixels[i : i + 1])))
        work.emit(Progress("restructure/reference", i + 1, len(images), "images"))
    scores = Scores(np.concatenate(rows), images.labels)
    work.emit(Note("restructure/reference", f"float top-1 {100 * scores.top1:.2f} % of {len(images)} images"))
    return (scores.write(work.dir / "scores.safetensors"),)


def restructure(work: Work, options: RestructureOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Rewrite the model into 4-D convolutions and prove it on every evaluation image.

    Raises:
        StageError: the model is not understood, the form is not 4-D, or the proof fails; it names where.
    """
    import onnx

    from bpudeploy.restructure.forms import check_forms
    from bpudeploy.restructure.proof import Reference, prove
    from bpudeploy.restructure.read_vit import read_vit
    from bpudeploy.restructure.record import GraphRecord, count_nodes
    from bpudeploy.restructure.vit import rewrite
    from bpudeploy.stages.timm_models import load_model

    model, preprocess, samples, scores = inputs
    network, _ = load_model(model.path)
    images, normalise = Samples.read(samples.path), Normalisation.read(preprocess.path)
    rewritten = rewrite(read_vit(network))
    check_forms(rewritten.model)
    proof, logits = prove(
        rewritten,
        Reference(network, Scores.read(scores.path).logits, lambda i: normalise.apply(images.pixels[i : i + 1])),
        tolerance=options.tolerance,
        progress=lambda done: work.emit(Progress("restructure", done, len(images), "images")),
    )
    nodes = count_nodes(rewritten.model)
    GraphRecord(proof=proof, nodes=nodes, taps=rewritten.taps, keep_float=rewritten.keep_float).write(rewritten.model)
    work.emit(
        Note(
            "restructure",
            f"{sum(nodes.values())} nodes, {nodes['Conv']} Conv, all 4-D, opset 11; worst difference "
            f"{proof.max_relative_difference:.1e} of the logits' range, top-1 equal on all {proof.images} images",
        )
    )
    onnx.save(rewritten.model, work.dir / "graph.onnx")
    return work.dir / "graph.onnx", Scores(logits, images.labels).write(work.dir / "scores.safetensors")


REFERENCE = Stage(
    "reference",
    version=1,
    takes=(Kind.MODEL, Kind.PREPROCESS, Kind.SAMPLES),
    gives=(Kind.SCORES,),
    run=reference,
    tools=("torch", "timm"),
)
RESTRUCTURE = Stage(
    "restructure",
    version=1,
    takes=(Kind.MODEL, Kind.PREPROCESS, Kind.SAMPLES, Kind.SCORES),
    gives=(Kind.GRAPH, Kind.SCORES),
    run=restructure,
    tools=("torch", "timm", "onnx", "onnxruntime"),
)
