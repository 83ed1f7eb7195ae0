"""What a run made and measured, as one Summary: accuracies with intervals, gates, sizes, digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Scores, read_findings
from bpudeploy.conformance.report import Inspection
from bpudeploy.effects.push import Pushed
from bpudeploy.plan import pipeline
from bpudeploy.predict.estimate import Estimate
from bpudeploy.predict.simulated import SimulationReport
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.quantize.findings import LayerReport, RepairReport
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.restructure.record import GraphRecord, Proof
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.measurement import Interval, Measurement, Provenance
from bpudeploy.results.statistics import paired_drop, wilson
from bpudeploy.results.summary import Accuracy, Gate, Install, Quantization, Step, Summary
from bpudeploy.run.runner import RunResult
from bpudeploy.spec.approximate import ApproximateSpec
from bpudeploy.spec.load import Resolved, load_target
from bpudeploy.spec.recipe import CheckSpec
from bpudeploy.spec.target import March
from bpudeploy.stages.approximate import approximations
from bpudeploy.stages.originals import framework_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHAT_IF = "rdk-x5"
"""The board whose placement a report shows when the run's own has no BPU."""
_SIZES = {
    "float weights": (pipeline.MODEL, 0),
    "restructured float graph": (pipeline.GRAPH, 0),
    "binary": (pipeline.BINARY, 0),
}


def summarise(
    resolved: Resolved,
    result: RunResult,
    pushed: Pushed,
    checked: SelfCheck,
    measured: Measurement,
    started: datetime,
    directory: Path,
) -> Summary:
    """Put together what the report, the terminal and ``--json`` draw. Computes no figure of its own kind."""
    from bpudeploy.stages.fetch_model import describe_preprocess
    from bpudeploy.stages.timm_models import Preprocess

    recipe = resolved.recipe
    predicted = _predicted(measured, result)
    accuracy = accuracies(recipe.restructure.approximate, result, measured, predicted)
    proof = _proof(result.artifact(pipeline.GRAPH).path)
    return Summary(
        recipe=recipe.name,
        target=resolved.target.name,
        backend=resolved.target.backend,
        started=started.isoformat(timespec="seconds"),
        release=measured.subject.release,
        preprocess=describe_preprocess(Preprocess.read(result.artifact(pipeline.PREPROCESSING).path)),
        warnings=tuple(str(finding) for finding in read_findings(result.artifact(pipeline.CALIBRATION).path)),
        proof_difference=proof.max_relative_difference,
        proof_images=proof.images,
        accuracy=accuracy,
        quantization=_quantization(result),
        measurement=measured,
        predicted=predicted,
        self_check=checked,
        install=Install(changed=pushed.changed, bytes_sent=pushed.bytes_sent, seconds=pushed.seconds),
        steps=_steps(result),
        gates=gates(recipe.check, accuracy[-1], measured, predicted),
        sizes=_sizes(recipe.restructure.approximate, result),
        placement=_placement(resolved, result),
        versions=dict(measured.versions),
        run_directory=str(directory),
    )


def accuracies(
    spec: ApproximateSpec, result: RunResult, measured: Measurement, predicted: Estimate | None = None
) -> tuple[Accuracy, ...]:
    """Return top-1 of each form on the same images: float, restructured, each approximation, int8, the board last.

    Args:
        predicted: given where the board is simulated: its row says so.
    """
    import numpy as np

    truth = Scores.read(result.artifact(pipeline.FLOAT_SCORES).path)
    restructured = Scores.read(result.artifact(pipeline.GRAPH, 1).path)
    int8 = Scores.read(result.artifact(pipeline.INT8_SCORES).path)
    assert measured.answers is not None  # a run measures accuracy, always
    board = np.array(measured.answers.top)
    changed = [(a.label, result.artifact(a.step, 1).path) for a in approximations(spec)]
    rows = (
        ("float", f"host, {framework_of(result.artifact(pipeline.MODEL).path)}", truth.logits),
        ("restructured", "host, onnxruntime", restructured.logits),
        *((label, "host, onnxruntime", Scores.read(path).logits) for label, path in changed),
        ("int8", "host, onnxruntime", int8.logits),
        *((label, "host, onnxruntime", Scores.read(path).logits) for label, path in _promoted(result)),
    )
    best = best_of(truth.logits)
    on_host = [_accuracy(*rows[0][:2], best, None, truth.labels)]
    on_host += [_accuracy(form, where, best_of(logits), best, truth.labels) for form, where, logits in rows[1:]]
    form = "on the board" if predicted is None else f"{predicted.march}, simulated"
    last = _accuracy(form, measured.device, board, best, truth.labels, measured.provenance)
    return (*on_host, last)


def kept(summary: Summary) -> tuple[Measurement, ...]:
    """Return what the results store keeps of a run: a simulator's accuracy has no latency, a prediction nothing else.

    What a simulator takes on this machine's CPU says nothing of a board.
    """
    measured, predicted = summary.measurement, summary.predicted
    if predicted is None:
        return (measured,)
    on_this_machine = {"latency": None, "load_ms": None, "rounds": (), "throughput": (), "conditions": ()}
    nothing = on_this_machine | {"layers": (), "caveats": (), "peak_memory_mb": None}
    latency = Interval(value=predicted.predicted_ms, low=predicted.predicted_low_ms, high=predicted.predicted_high_ms)
    foretold = {
        "provenance": Provenance.PREDICTED,
        "device": predicted.board,
        "runtime": predicted.basis,
        "facts": None,
        "method": None,
        "score": None,
        "answers": None,
        "predicted_ms": latency,
    }
    simulated = measured.model_copy(update=nothing)
    return simulated, simulated.model_copy(update=foretold)


def _promoted(result: RunResult) -> Iterator[tuple[str, Path]]:
    """Yield the form after repair, where it changed anything, and its scores."""
    repair = _repair(result)
    if repair is not None and repair.promoted:
        ref = pipeline.final_scores(result.steps)
        yield f"+ {len(repair.promoted)} taps in int16", result.artifact(ref.step, ref.index).path


def _repair(result: RunResult) -> RepairReport | None:
    ref = pipeline.repair_findings(result.steps)
    return RepairReport.read(result.artifact(ref.step, ref.index).path) if ref is not None else None


def _quantization(result: RunResult) -> Quantization:
    """Return how the network that was compiled was quantized."""
    import onnx

    _, ref = pipeline.final_quantized(result.steps)
    record = QuantizeRecord.read(onnx.load(result.artifact(ref.step, ref.index).path))
    return Quantization(
        levers=record.levers,
        taps=Counter(tap.precision for tap in record.taps.values()),
        layers=LayerReport.read(result.artifact(pipeline.DEVIATIONS).path),
        integers=Agreement.read(result.artifact(pipeline.INTEGERS).path),
        repair=_repair(result),
    )


def best_of(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the classes (N, 5 or fewer) with the largest logits (N, classes), the best first, in a tie the lower."""
    import numpy as np

    return np.argsort(-logits, axis=1, kind="stable")[:, :5]


def _accuracy(
    form: str,
    where: str,
    best: NDArray[np.int64],
    original: NDArray[np.int64] | None,
    labels: NDArray[np.int64],
    provenance: Provenance = Provenance.MEASURED,
) -> Accuracy:
    """Return the accuracy of a form with the classes ``best``; ``original`` are float's, None for float itself."""
    right = [bool(x) for x in best[:, 0] == labels]
    among = int((best == labels[:, None]).any(axis=1).sum())
    return Accuracy(
        form=form,
        where=where,
        top1=wilson(sum(right), len(right)),
        top5=wilson(among, len(right)) if best.shape[1] == 5 else None,
        correct=sum(right),
        images=len(right),
        drop=paired_drop([bool(x) for x in original[:, 0] == labels], right) if original is not None else None,
        agreement=100 * float((best[:, 0] == original[:, 0]).mean()) if original is not None else None,
        provenance=provenance,
    )


def gates(
    check: CheckSpec, board: Accuracy, measured: Measurement, predicted: Estimate | None = None
) -> tuple[Gate, ...]:
    """Hold what was measured on the board, or is predicted of a simulated one, against the recipe's ``check:``."""
    found = []
    if check.max_drop is not None and board.drop is not None:
        drop = board.drop.points.value
        found.append(
            Gate(name="max_drop", limit=check.max_drop, value=drop, unit="points", holds=drop <= check.max_drop)
        )
    if check.max_p50_ms is not None:
        assert measured.latency is not None  # a run times frames, always
        p50 = measured.latency.p50_ms.value if predicted is None else predicted.predicted_ms
        unit = "ms" if predicted is None else "ms, predicted"
        found.append(
            Gate(name="max_p50_ms", limit=check.max_p50_ms, value=p50, unit=unit, holds=p50 <= check.max_p50_ms)
        )
    return tuple(found)


def _predicted(measured: Measurement, result: RunResult) -> Estimate | None:
    """Return what the simulator's compile predicts for its board; None for a board that is there."""
    if measured.provenance is not Provenance.SIMULATED:
        return None
    return SimulationReport.read(result.artifact(pipeline.BINARY, 1).path).estimate


def _steps(result: RunResult) -> tuple[Step, ...]:
    return tuple(
        Step(
            name=name,
            cache="hit" if step.hit else "miss",
            seconds=step.record.seconds,
            peak_mb=step.record.peak_mb,
            digests=tuple(a.digest for a in step.artifacts),
            bytes=sum(o.size for o in step.record.outputs),
        )
        for name, step in result.steps.items()
    )


def _sizes(spec: ApproximateSpec, result: RunResult) -> dict[str, int]:
    """Return what the report calls an artifact to its bytes."""
    changed = {f"float graph, {a.label}": (a.step, 0) for a in approximations(spec)}
    _, final = pipeline.final_quantized(result.steps)
    found = _SIZES | {"int8 graph": (final.step, final.index)} | changed
    return {what: result.artifact(*which).path.stat().st_size for what, which in found.items()}


def _placement(resolved: Resolved, result: RunResult) -> Inspection:
    """Return where the graph that was quantized would run: on the target, or on ``WHAT_IF`` where it has no BPU."""
    import onnx

    from bpudeploy.conformance.placement import placement

    target = resolved.target if resolved.target.march is not March.CPU else load_target(WHAT_IF, Path())[0]
    changed = approximations(resolved.recipe.restructure.approximate)
    step = changed[-1].step if changed else pipeline.GRAPH
    found = placement(onnx.load(result.artifact(step).path), target.march)
    return Inspection(
        model=resolved.recipe.name, origin=f"the graph of step {step}", target=target.name, placement=found
    )


def _proof(graph: Path) -> Proof:
    import onnx

    return GraphRecord.read(onnx.load(graph)).proof
