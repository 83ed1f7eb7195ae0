"""One step of ``int8_peers`` in a process of its own: prepare the job, quantize by one method, or measure the result.

PYTHON -m benchmarks.int8_peer_steps prepare RECIPE FOLDER [SET ...]
PYTHON -m benchmarks.int8_peer_steps quantize METHOD FOLDER
PYTHON -m benchmarks.int8_peer_steps idle METHOD FOLDER        what quantize starts with, and the float model
PYTHON -m benchmarks.int8_peer_steps evaluate METHOD FOLDER IMAGES
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import bpudeploy
from benchmarks.int8_peer_methods import INTEGER, LAYOUT, METHODS, Images, Job

OPSET = 13
"""The first opset with a scale for each output channel. Nothing in a restructured graph changed its meaning on 4-D
tensors since its opset 11, so the number is raised and the rest stays."""
QDQ = ("QuantizeLinear", "DequantizeLinear")


def prepare(recipe: Path, folder: Path, sets: tuple[str, ...]) -> None:
    """Bring what stands before the quantize step into the store, and write the peers' graphs and job.json."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from bpudeploy.planning import pipeline
    from bpudeploy.planning.products import CALIBRATION, EVALUATION, PREPROCESSING, QUANTIZED
    from bpudeploy.planning.step import Plan
    from bpudeploy.restructure.record import GraphRecord
    from bpudeploy.run.runner import run
    from bpudeploy.stage import Kind
    from bpudeploy.store.objects import default_root

    resolved = bpudeploy.load(recipe, *sets)
    plan = pipeline.plan(resolved)
    step = plan.step(QUANTIZED)
    assert all(ref.step.split("/")[0] != step.group for ref in step.inputs), "its cost is in an earlier step as well"
    before = Plan(plan.recipe, tuple(takewhile(lambda s: s.name != step.name, plan.steps)))
    result = run(before, default_root(), lambda event: None)
    source = next(ref for ref in step.inputs if ref.kind is Kind.GRAPH)
    graph = result.artifact(source.step).path
    model = onnx.load(graph)
    keep = GraphRecord.read(model).keep_float
    del model.metadata_props[:]
    model.opset_import[0].version = OPSET
    raised, processed = str(folder / "raised.onnx"), str(folder / "processed.onnx")
    onnx.save(model, raised)
    quant_pre_process(raised, processed)
    before_it, after_it = (Counter(n.op_type for n in onnx.load(path).graph.node) for path in (raised, processed))
    gone, come = dict(before_it - after_it), dict(after_it - before_it)
    print(f"quant_pre_process took away {gone or 'no node'} and added {come or 'none'}")
    samples = result.artifact(CALIBRATION).path
    artifacts = [result.artifact(ref.step, ref.output) for ref in step.inputs]
    job = Job(
        recipe=str(recipe),
        sets=sets,
        graph=str(graph),
        raised=raised,
        processed=processed,
        keep_float=keep,
        attention="Softmax" in before_it,
        calibration=str(samples),
        preprocess=str(result.artifact(PREPROCESSING).path),
        evaluation=str(result.artifact(EVALUATION).path),
        truth=str(result.artifact(source.step, "scores").path),
        images=len(Images(str(samples), str(result.artifact(PREPROCESSING).path), "")),
        inputs=tuple((a.kind.value, a.digest, str(a.path)) for a in artifacts),
    )
    (folder / "job.json").write_text(json.dumps(asdict(job)))


def started(folder: Path) -> None:
    """Say when the clock starts, and what CPU time was spent before."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    mark = {"clock": time.monotonic(), "cpu": used.ru_utime + used.ru_stime}
    (folder / "started.json").write_text(json.dumps(mark))


def integer_nodes(model: Any) -> dict[str, Any]:
    """Count the Conv and MatMul whose inputs are both dequantized, what is not QDQ, and the activations' scales."""
    from onnx import TensorProto, numpy_helper

    maker = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def dequantized(name: str) -> bool:
        while name in maker and maker[name].op_type in LAYOUT:
            name = maker[name].input[0]
        return name in maker and maker[name].op_type == "DequantizeLinear"

    nodes = [n for n in model.graph.node if n.op_type in INTEGER]
    scales: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            zero = constants[node.input[2]]
            assert not numpy_helper.to_array(zero).any(), f"{node.name} is not symmetric"
            scales[TensorProto.DataType.Name(zero.data_type).lower()] += 1
    return {
        "integer_nodes": sum(all(dequantized(name) for name in n.input[:2]) for n in nodes),
        "conv_and_matmul": len(nodes),
        "other_nodes": sum(n.op_type not in (*QDQ, *INTEGER) for n in model.graph.node),
        "scales": dict(scales),
    }


def logits_of(model: str, images: Images, count: int) -> Iterator[Any]:
    """Yield the logits of the first ``count`` images, float32 (1, classes) each."""
    from bpudeploy.host import open_session

    session = open_session(model)
    (given,) = session.get_inputs()
    for index in range(count):
        (image,) = images.image(index).values()
        yield session.run(None, {given.name: image})[0].reshape(1, -1)


def evaluate(job: Job, model: Path, out: Path, most: int) -> None:
    """Write what ``model``, or float where there is none, does on the first ``most`` evaluation images."""
    import numpy as np
    import onnx

    from bpudeploy.backends.samples import Scores
    from bpudeploy.results.statistics import paired_drop

    scores = Scores.read(Path(job.truth))
    truth = Scores(scores.logits[:most], scores.labels[:most])
    if not model.exists():
        counts = integer_nodes(onnx.load(job.graph))
        out.write_text(json.dumps({"top1": 100 * truth.top1, "evaluated": len(truth.labels), **counts}))
        return
    logits = np.concatenate(list(logits_of(str(model), Images(job.evaluation, job.preprocess, ""), len(truth.labels))))
    before, after = truth.logits.argmax(axis=1), logits.argmax(axis=1)
    drop = paired_drop([bool(x) for x in before == truth.labels], [bool(x) for x in after == truth.labels])
    quality = {
        "top1": 100 * float((after == truth.labels).mean()),
        "drop": [drop.points.value, drop.points.low, drop.points.high],
        "p_value": drop.p_value,
        "agreement": 100 * float((before == after).mean()),
        "rmse": float(np.sqrt(((logits - truth.logits) ** 2).mean())),
        "evaluated": len(truth.labels),
        **integer_nodes(onnx.load(model)),
    }
    out.write_text(json.dumps(quality))


def main() -> None:
    """Do one step."""
    what, which, text, *sets = sys.argv[1:]
    folder = Path(text)
    if what == "prepare":
        prepare(Path(which), folder, tuple(sets))
        return
    job, out = Job.read(folder), folder / f"{which}.onnx"
    if what == "evaluate":
        evaluate(job, out, folder / f"{which}.json", int(sets[0]))
        return
    quantize = METHODS[which].start(job, METHODS[which].options)
    started(folder)
    if what == "idle":
        import onnx

        onnx.load(job.graph)
    else:
        quantize(out)


if __name__ == "__main__":
    main()
