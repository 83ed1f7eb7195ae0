"""The Summary of a run: accuracies with intervals, gates, sizes, digests, measurements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Scores, read_findings
from bpudeploy.conformance.report import Inspection
from bpudeploy.effects.push import PushResult
from bpudeploy.measure import Candidate, best_classes_in
from bpudeploy.planning.products import GRAPH, Products
from bpudeploy.predict.estimate import Estimate
from bpudeploy.predict.simulated import SimulationReport
from bpudeploy.provenance import Provenance
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.quantize.findings import LayerReport, RepairOutcome, RepairReport
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.restructure.record import GraphRecord
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.results.statistics import paired_drop, wilson
from bpudeploy.results.summary import Accuracy, Gate, Install, Quantization, Step, Summary
from bpudeploy.run.runner import RunResult
from bpudeploy.spec.approximate import ApproximateSpec
from bpudeploy.spec.load import LoadedRecipe, load_target
from bpudeploy.spec.recipe import CheckSpec
from bpudeploy.spec.target import March
from bpudeploy.stages.approximate import approximations
from bpudeploy.stages.originals import framework_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class BoardResults:
    """Results of a release on its board."""

    pushed: PushResult
    checked: SelfCheck
    measured: Measurement


IN_BINARY = "in the binary"
FALLBACK_TARGET = "rdk-x5"
"""The target whose placement a report shows if the run's own has no BPU."""


def summarise(
    resolved: LoadedRecipe,
    result: RunResult,
    candidate: Candidate,
    board: BoardResults,
    started: datetime,
    directory: Path,
) -> Summary:
    """Return the Summary that the report, the terminal and ``--json`` display."""
    import onnx

    from bpudeploy.stages.timm_models import Preprocess

    recipe = resolved.recipe
    measured, pushed = board.measured, board.pushed
    products = Products(result.artifacts)
    predicted = _predicted(measured, products)
    repair = repair_report(products)
    accuracy = _accuracies(recipe.restructure.approximate, products, candidate, repair, measured, predicted)
    proof = GraphRecord.read(onnx.load(products.graph.path)).proof
    return Summary(
        recipe=recipe.name,
        target=resolved.target.name,
        backend=resolved.target.backend,
        started=started.isoformat(timespec="seconds"),
        release=measured.subject.release,
        preprocess=str(Preprocess.read(products.preprocess.path)),
        warnings=tuple(str(finding) for finding in read_findings(products.calibration.path)),
        proof_difference=proof.max_relative_difference,
        proof_images=proof.images,
        accuracy=accuracy,
        quantization=_quantization(products, repair),
        measurement=measured,
        predicted=predicted,
        self_check=board.checked,
        install=Install(changed=pushed.changed, bytes_sent=pushed.bytes_sent, seconds=pushed.seconds),
        steps=_steps(result),
        gates=gates(recipe.check, accuracy, measured, predicted),
        sizes=_sizes(recipe.restructure.approximate, products),
        placement=_placement(resolved, products),
        versions=dict(measured.versions),
        run_directory=str(directory),
    )


def _accuracies(
    spec: ApproximateSpec,
    products: Products,
    candidate: Candidate,
    repair: RepairReport | None,
    measured: Measurement,
    predicted: Estimate | None,
) -> tuple[Accuracy, ...]:
    """Return the accuracy of each form on the same images: float, restructured, approximations, int8, board.

    Args:
        predicted: set if the board is simulated, which the board's row then states.
    """
    import numpy as np

    assert measured.answers is not None  # a run always measures accuracy
    answers = candidate.answers
    truth, labels = np.array(answers.truth), np.array(answers.labels)
    forms = [("restructured", best_classes_in(products.graph_scores))]
    forms += [(a.label, best_classes_in(products.approximated(a.step)[1])) for a in approximations(spec)]
    if repair is not None and repair.promoted and repair.latency_us is None:
        forms.append(("int8", best_classes_in(products.int8_scores)))
        forms.append((f"+ {len(repair.promoted)} taps in int16", best_classes_in(products.quantized_scores)))
    else:
        forms.append(("int8", best_classes_in(products.quantized_scores)))
    on_host = [_accuracy("float", f"host, {framework_of(products.model.path)}", truth, None, labels)]
    on_host += [_accuracy(form, "host, onnxruntime", best, truth, labels) for form, best in forms]
    binary = binary_accuracy(products)
    form = "on the board" if predicted is None else f"{predicted.march}, simulated"
    board = _accuracy(form, measured.device, np.array(measured.answers.top), truth, labels, measured.provenance)
    return (*on_host, *((binary,) if binary is not None else ()), board)


def binary_accuracy(products: Products) -> Accuracy | None:
    """Return the accuracy of the compiled binary, simulated bit-exactly; None if its backend cannot."""
    if products.binary_scores is None:
        return None
    scores = Scores.read(products.binary_scores.path)
    best, truth = best_classes_in(products.binary_scores), best_classes_in(products.float_scores)
    return _accuracy(IN_BINARY, "host, simulated bit-exactly", best, truth, scores.labels, Provenance.SIMULATED)


def stored_measurements(summary: Summary) -> tuple[Measurement, ...]:
    """Return the measurements of a run for the results store.

    For a simulated board these are two: accuracy without latency, because the simulator's time on this CPU says nothing
    about a board, and the predicted latency alone.
    """
    measured, predicted = summary.measurement, summary.predicted
    if predicted is None:
        return (measured,)
    without_latency = {"latency": None, "load_ms": None, "rounds": (), "throughput": (), "conditions": ()}
    simulation = without_latency | {"layers": (), "caveats": (), "peak_memory_mb": None}
    latency = Interval(value=predicted.predicted_ms, low=predicted.predicted_low_ms, high=predicted.predicted_high_ms)
    prediction = {
        "provenance": Provenance.PREDICTED,
        "device": predicted.board,
        "runtime": predicted.basis,
        "facts": None,
        "method": None,
        "score": None,
        "answers": None,
        "predicted_ms": latency,
    }
    simulated = measured.model_copy(update=simulation)
    return simulated, simulated.model_copy(update=prediction)


def _quantization(products: Products, repair: RepairReport | None) -> Quantization:
    """Return the quantization of the compiled network."""
    import onnx

    record = QuantizeRecord.read(onnx.load(products.quantized.path))
    return Quantization(
        levers=record.levers,
        taps=Counter(tap.precision for tap in record.taps.values()),
        layers=LayerReport.read(products.layers.path),
        integers=Agreement.read(products.integers.path),
        repair=repair,
    )


def _accuracy(
    form: str,
    where: str,
    best: NDArray[np.int64],
    original: NDArray[np.int64] | None,
    labels: NDArray[np.int64],
    provenance: Provenance = Provenance.MEASURED,
) -> Accuracy:
    """Return the accuracy of a form with top classes ``best``; ``original`` are float's, None for float itself."""
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
    check: CheckSpec, accuracy: Sequence[Accuracy], measured: Measurement, predicted: Estimate | None = None
) -> tuple[Gate, ...]:
    """Compare the results with the limits in the recipe's ``check:``.

    ``max_drop`` counts on the binary, simulated bit-exactly, and on the board if the backend cannot simulate it.
    """
    drop = drop_gate(check, next((one for one in accuracy if one.form == IN_BINARY), accuracy[-1]))
    found = [] if drop is None else [drop]
    if check.max_p50_ms is not None:
        assert measured.latency is not None  # a run always measures latency
        p50 = measured.latency.p50_ms.value if predicted is None else predicted.predicted_ms
        unit = "ms" if predicted is None else "ms, predicted"
        found.append(_gate("max_p50_ms", check.max_p50_ms, p50, unit, accuracy[-1].form))
    return tuple(found)


def repair_report(products: Products) -> RepairReport | None:
    """Return the report of the last repair that was needed, or of the last; None if the recipe has no repair."""
    reports = [RepairReport.read(report.path) for report in products.repairs]
    needed = [report for report in reports if report.outcome is not RepairOutcome.NOT_NEEDED]
    return next(reversed(needed or reports), None)


def drop_gate(check: CheckSpec, row: Accuracy) -> Gate | None:
    """Compare an accuracy with ``check.max_drop``; None without a limit."""
    if check.max_drop is None or row.drop is None:
        return None
    return _gate("max_drop", check.max_drop, row.drop.points.value, "points", row.form)


def _gate(name: str, limit: float, value: float, unit: str, on: str) -> Gate:
    return Gate(name=name, limit=limit, value=value, unit=unit, on=on, holds=value <= limit)


def _predicted(measured: Measurement, products: Products) -> Estimate | None:
    """Return the simulator's prediction for its board; None for a real board."""
    if measured.provenance is not Provenance.SIMULATED:
        return None
    return SimulationReport.read(products.compiler_findings.path).estimate


def _steps(result: RunResult) -> tuple[Step, ...]:
    return tuple(
        Step(
            name=name,
            cache="hit" if step.hit else "miss",
            seconds=step.record.seconds,
            peak_mb=step.record.peak_mb,
            digests=tuple(a.digest for a in step.artifacts.values()),
            bytes=sum(o.size for o in step.record.outputs),
        )
        for name, step in result.steps.items()
    )


def _sizes(spec: ApproximateSpec, products: Products) -> dict[str, int]:
    """Return the sizes in bytes of the artifacts in the report, by their name in the report."""
    found = {
        "float weights": products.model,
        "restructured float graph": products.graph,
        "binary": products.binary,
        "int8 graph": products.quantized,
    } | {f"float graph, {a.label}": products.approximated(a.step)[0] for a in approximations(spec)}
    return {name: artifact.path.stat().st_size for name, artifact in found.items()}


def _placement(resolved: LoadedRecipe, products: Products) -> Inspection:
    """Return where the nodes of the float graph run on the target, or on ``FALLBACK_TARGET`` if it has no BPU."""
    import onnx

    from bpudeploy.conformance.placement import placement

    own = resolved.target
    target = own if own.march.is_known and own.march is not March.CPU else load_target(FALLBACK_TARGET, Path())[0]
    changed = approximations(resolved.recipe.restructure.approximate)
    step = changed[-1].step if changed else GRAPH
    graph = products.approximated(step)[0] if changed else products.graph
    found = placement(onnx.load(graph.path), target.march)
    return Inspection(
        model=resolved.recipe.name, origin=f"the graph of step {step}", target=target.name, placement=found
    )
