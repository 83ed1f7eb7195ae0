"""restructure/reference and restructure: the outputs of the original, and its equivalent 4-D form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress, progress
from bpudeploy.host import batches
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.options import FieldOptions, NoOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

FEATURE_IMAGES = 16
"""Number of images on which large feature maps are compared; class scores are compared on all."""


@dataclass(frozen=True)
class RestructureOptions(FieldOptions):
    """``tolerance``: largest allowed |difference|, relative to the range of the reference outputs."""

    tolerance: float


def reference(work: StepContext, options: NoOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Score the evaluation set with the original model in float32, in its own framework.

    For ``outputs: features``, all outputs of an image are concatenated to one row.

    Raises:
        StageError: model and dataset have different numbers of classes.
    """
    import numpy as np

    from bpudeploy.stages.originals import open_original

    model, preprocess, samples = inputs
    original = open_original(model.path)
    images, normalise = Samples.read(samples.path), Normalisation.read(preprocess.path)
    meta = original.meta
    if not meta.features and meta.num_classes != len(images.classes):
        raise StageError(
            f"the model has {meta.num_classes} classes, the dataset {len(images.classes)}",
            hint="list all of the model's classes, in its order, in dataset.classes; a backbone needs a model.head; "
            "a network without class scores needs `outputs: features`",
        )
    count = min(len(images), FEATURE_IMAGES) if meta.features else len(images)
    rows = []
    for chosen, kept in batches(count, meta.batch if original.runs_on == "onnxruntime" else 1):
        made = original.infer(normalise.apply(images.pixels[chosen]))
        rows.append(np.concatenate([output.reshape(len(chosen), -1) for output in made], axis=1)[:kept])
        work.emit(Progress("restructure/reference", chosen[0] + kept, count, "images"))
    scores = Scores(np.concatenate(rows), images.labels[:count])
    result = f"{scores.logits.shape[1]} features" if meta.features else f"float top-1 {100 * scores.top1:.2f} %"
    work.emit(Note("restructure/reference", f"{result} of {count} images, by {original.runs_on}"))
    return (scores.write(work.dir / "scores.safetensors"),)


def restructure(work: StepContext, options: RestructureOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Rewrite the model into 4-D convolutions and compare it with the original on every evaluation image.

    Raises:
        StageError: an operation has no 4-D form, or the outputs differ; with the place in the network.
    """
    import numpy as np

    from bpudeploy.restructure.proof import Reference, prove, random_input
    from bpudeploy.restructure.record import GraphRecord, count_nodes
    from bpudeploy.restructure.rewrite import rewrite
    from bpudeploy.restructure.write import save
    from bpudeploy.stages.originals import open_original

    model, preprocess, samples, scores = inputs
    images, normalise = Samples.read(samples.path), Normalisation.read(preprocess.path)
    original = open_original(model.path)
    meta = original.meta
    noise = original.infer(random_input((meta.batch, 3, *meta.image_size)))
    network = [original.network()]
    del original
    rewritten = rewrite(network.pop())  # no reference to the weights remains here while they are rewritten
    nodes, graph = count_nodes(rewritten.model), work.dir / "graph.onnx"
    save(rewritten.model, graph)
    truth = Scores.read(scores.path)
    proof, answers = prove(
        graph,
        rewritten.tensor_map,
        Reference(
            _by_output(truth.logits, noise) if meta.features else [truth.logits],
            lambda i: normalise.apply(images.pixels[i : i + 1]),
            noise,
            lambda: open_original(model.path).as_onnx(),
        ),
        tolerance=options.tolerance,
        progress=progress(work.emit, "restructure", len(truth.labels), "images"),
    )
    GraphRecord(proof=proof, nodes=nodes, keep_float=rewritten.keep_float, rules=rewritten.applied).append(graph)
    top1 = f"top-1 equal on all {proof.images} images" if proof.top1_equal else f"on {proof.images} images"
    work.emit(
        Note(
            "restructure",
            f"{sum(nodes.values())} nodes, {nodes.get('Conv', 0)} Conv, all 4-D, opset 11; worst difference "
            f"{proof.max_relative_difference:.1e} of the outputs' range, {top1}",
        )
    )
    rows = np.concatenate([a.reshape(len(a), -1) for a in answers], axis=1)
    return graph, Scores(rows, truth.labels).write(work.dir / "scores.safetensors")


def _by_output(rows: F32, noise: Sequence[F32]) -> list[F32]:
    """Split concatenated rows into one array (images, ...) per output, with the shapes of ``noise``."""
    import numpy as np

    shapes = [output.shape[1:] for output in noise]
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(len(rows), *shape) for part, shape in zip(np.split(rows, cuts, axis=1), shapes, strict=True)]


REFERENCE = Stage(
    "reference",
    version=2,
    takes=(Kind.MODEL, Kind.PREPROCESS, Kind.SAMPLES),
    gives={"scores": Kind.SCORES},
    run=reference,
    tools=("torch", "timm", "onnxruntime"),
)
RESTRUCTURE = Stage(
    "restructure",
    version=4,
    takes=(Kind.MODEL, Kind.PREPROCESS, Kind.SAMPLES, Kind.SCORES),
    gives={"graph": Kind.GRAPH, "scores": Kind.SCORES},
    run=restructure,
    tools=("torch", "timm", "onnx", "onnxruntime"),
)
