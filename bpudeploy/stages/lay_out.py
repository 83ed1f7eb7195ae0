"""restructure/layout: the 4-D graph as it lies best in an accelerator's memory, equal to the graph before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.errors import StageError
from bpudeploy.events import Note, progress
from bpudeploy.spec.layout import LayoutFacts
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.feed import run_all

_STEP = "restructure/layout"


@dataclass(frozen=True)
class LayOutOptions:
    """``tolerance``: largest allowed |difference| to the graph before, relative to the range of its outputs."""

    facts: LayoutFacts
    tolerance: float

    def canonical(self) -> Mapping[str, Any]:
        return {"facts": self.facts.model_dump(mode="json"), "tolerance": self.tolerance}


def lay_out(work: StepContext, options: LayOutOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Lay the graph out for the target's accelerator, and compare its outputs with those before on every image.

    Raises:
        StageError: an output differs by more than the tolerance, or a top-1 differs.
    """
    import numpy as np
    import onnx

    from bpudeploy.host import open_session
    from bpudeploy.layout.lay_out import lay_out as change
    from bpudeploy.restructure.bpu_form import check_form
    from bpudeploy.restructure.edit import editable_graph
    from bpudeploy.restructure.proof import check_top1, max_difference
    from bpudeploy.restructure.record import GraphRecord, count_nodes
    from bpudeploy.restructure.write import to_onnx

    source, before, preprocess, evaluation = inputs
    model = onnx.load(source.path)
    record = GraphRecord.read(model)
    graph = editable_graph(model, record.keep_float)
    changes = change(graph, options.facts)
    kept, made = graph.keep_float, to_onnx(graph)
    check_form(made)
    rules = record.rules | changes
    record.model_copy(update={"nodes": count_nodes(made), "keep_float": kept, "rules": rules}).write(made)
    onnx.save(made, work.dir / "graph.onnx")
    truth, images = Scores.read(before.path), Samples.read(evaluation.path)
    count = len(truth.labels)  # fewer than there are images where the outputs are feature maps
    compared = Samples(images.pixels[:count], images.labels[:count])
    report = progress(work.emit, _STEP, count, "images")
    session, rows = open_session(made.SerializeToString(), lean=True), []
    for done, outputs in run_all(session, compared, Normalisation.read(preprocess.path)):
        rows.append(np.concatenate([output.reshape(len(output), -1) for output in outputs], axis=1))
        report(done)
    scores = Scores(np.concatenate(rows), truth.labels)
    worst, at = max_difference([scores.logits], [truth.logits])
    if not worst <= options.tolerance:
        raise StageError(
            f"the layout is not exact: on image {at} the outputs differ by {worst:.2e} of their range "
            f"(allowed {options.tolerance:.0e})",
            hint="report the model's name; `layout: {}` in a copy of the target's file leaves the graph as it is",
        )
    if record.proof.top1_equal is not None:
        check_top1(scores.logits, truth.logits)
    text = ", ".join(f"{n} {name}" for name, n in changes.items() if n) or "nothing to change"
    work.emit(Note(_STEP, f"{text}; worst difference {worst:.1e} of the outputs' range on {count} images"))
    return work.dir / "graph.onnx", scores.write(work.dir / "scores.safetensors")


LAY_OUT = Stage(
    "layout",
    version=5,
    takes=(Kind.GRAPH, Kind.SCORES, Kind.PREPROCESS, Kind.SAMPLES),
    gives={"graph": Kind.GRAPH, "scores": Kind.SCORES},
    run=lay_out,
    tools=("onnx", "onnxruntime", "numpy"),
)
