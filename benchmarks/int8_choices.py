"""What INT8 changes on a thousand photos, by observer and by where the graph is rounded (docs/decisions).

.venv/bin/python benchmarks/int8_choices.py        about 6 minutes on two cores
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.plan import pipeline
from bpudeploy.quantize.calibrate import observe
from bpudeploy.quantize.observer import threshold
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.taps import Taps, find_taps
from bpudeploy.restructure.record import GraphRecord
from bpudeploy.run.runner import run
from bpudeploy.spec.load import load_recipe
from bpudeploy.spec.recipe import Observer
from bpudeploy.store.objects import default_root

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"


def with_outputs(model: onnx.ModelProto, taps: Taps) -> Taps:
    """Return ``taps`` with what comes out of each Conv as well, but for the logits."""
    final = {output.name for output in model.graph.output}
    convs = [n for n in model.graph.node if n.name in taps.nodes and n.op_type == "Conv"]
    made = {name: name for node in convs for name in node.output if name not in final}
    return Taps(taps.nodes, {**made, **taps.root})


def main() -> None:
    """Print one line for each choice."""
    (resolved,) = load_recipe(RECIPE, ["dataset.evaluation.count=1000"])
    plan = pipeline.plan(resolved, None).until(pipeline.GRAPH)
    result = run(plan, default_root(), lambda event: None)
    normalise = Normalisation.read(result.artifact(pipeline.PREPROCESSING).path)
    calibration = Samples.read(result.artifact(pipeline.CALIBRATION).path)
    evaluation = Samples.read(result.artifact(pipeline.EVALUATION).path)
    truth = Scores.read(result.artifact(pipeline.GRAPH, 1).path)
    model = onnx.load(result.artifact(pipeline.GRAPH).path)
    inputs = find_taps(model, frozenset(GraphRecord.read(model).keep_float))
    outputs = with_outputs(model, inputs)
    choices = [("inputs", inputs, observer) for observer in Observer]
    choices += [("inputs and outputs", outputs, observer) for observer in (Observer.MSE, Observer.MINMAX)]
    print(f"float: top-1 {100 * truth.top1:.1f} % of {len(evaluation)}")
    for where, taps, observer in choices:
        images = (normalise.apply(calibration.pixels[i : i + 1]) for i in range(len(calibration)))
        seen = observe(model, taps.observed, images, lambda done: None)
        limits = {name: threshold(histogram, observer, 99.99) for name, histogram in seen.items()}
        binary = to_qdq(model, taps, limits).SerializeToString()
        session = onnxruntime.InferenceSession(binary, providers=["CPUExecutionProvider"])
        fed = session.get_inputs()[0].name
        rows = [
            session.run(None, {fed: normalise.apply(evaluation.pixels[i : i + 1])})[0].reshape(1, -1)
            for i in range(len(evaluation))
        ]
        scores = Scores(np.concatenate(rows), evaluation.labels)
        same = (scores.logits.argmax(axis=1) == truth.logits.argmax(axis=1)).mean()
        error = np.sqrt(((scores.logits - truth.logits) ** 2).mean())
        print(f"{where}, {observer}: top-1 {100 * scores.top1:.1f} %, as float {100 * same:.1f} %, rmse {error:.2f}")


if __name__ == "__main__":
    main()
