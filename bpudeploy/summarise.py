"""What a run made and measured, as one Summary: accuracies with intervals, gates, sizes, digests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import read_findings
from bpudeploy.conformance.report import Inspection
from bpudeploy.effects.push import Pushed
from bpudeploy.measure import Candidate, best_classes_in
from bpudeploy.planning.products import GRAPH, Products
from bpudeploy.predict.estimate import Estimate
from bpudeploy.predict.simulated import SimulationReport
from bpudeploy.provenance import Provenance
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.quantize.findings import LayerReport, RepairReport
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.restructure.record import GraphRecord, Proof
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
    """What came of a release on its board."""

    pushed: Pushed
    checked: SelfCheck
    measured: Measurement


WHAT_IF = "rdk-x5"
"""The board whose placement a report shows when the run's own has no BPU."""


def summarise(
    resolved: LoadedRecipe,
    result: RunResult,
    candidate: Candidate,
    board: BoardResults,
    started: datetime,
    directory: Path,
) -> Summary:
    """Put together what the report, the terminal and ``--json`` draw. Computes no figure of its own kind."""
    from bpudeploy.stages.timm_models import Preprocess

    recipe = resolved.recipe
    measured, pushed = board.measured, board.pushed
    products = Products(result.artifacts)
    predicted = _predicted(measured, products)
    repair = RepairReport.read(products.repair.path) if products.repair is not None else None
    accuracy = _accuracies(recipe.restructure.approximate, products, candidate, repair, measured, predicted)
    proof = _proof(products.graph.path)
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
        gates=gates(recipe.check, accuracy[-1], measured, predicted),
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
    """Return top-1 of each form on the same images: float, restructured, each approximation, int8, the board last.

    Args:
        predicted: given where the board is simulated: its row says so.
    """
    import numpy as np

    assert measured.answers is not None  # a run measures accuracy, always
    answers = candidate.answers
    truth, labels, expected = (np.array(one) for one in (answers.truth, answers.labels, answers.expected))
    forms = [("restructured", best_classes_in(products.graph_scores))]
    forms += [(a.label, best_classes_in(products.approximated(a.step)[1])) for a in approximations(spec)]
    if repair is not None and repair.promoted:
        forms.append(("int8", best_classes_in(products.int8_scores)))
        forms.append((f"+ {len(repair.promoted)} taps in int16", expected))
    else:
        forms.append(("int8", expected))
    on_host = [_accuracy("float", f"host, {framework_of(products.model.path)}", truth, None, labels)]
    on_host += [_accuracy(form, "host, onnxruntime", best, truth, labels) for form, best in forms]
    form = "on the board" if predicted is None else f"{predicted.march}, simulated"
    board = np.array(measured.answers.top)
    return (*on_host, _accuracy(form, measured.device, board, truth, labels, measured.provenance))


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


def _quantization(products: Products, repair: RepairReport | None) -> Quantization:
    """Return how the network that was compiled was quantized."""
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


def _predicted(measured: Measurement, products: Products) -> Estimate | None:
    """Return what the simulator's compile predicts for its board; None for a board that is there."""
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
    """Return the bytes of the artifacts that the report shows, by the report's name for each."""
    found = {
        "float weights": products.model,
        "restructured float graph": products.graph,
        "binary": products.binary,
        "int8 graph": products.quantized,
    } | {f"float graph, {a.label}": products.approximated(a.step)[0] for a in approximations(spec)}
    return {name: artifact.path.stat().st_size for name, artifact in found.items()}


def _placement(resolved: LoadedRecipe, products: Products) -> Inspection:
    """Return where the graph that was quantized would run: on the target, or on ``WHAT_IF`` where it has no BPU."""
    import onnx

    from bpudeploy.conformance.placement import placement

    own = resolved.target
    target = own if own.march.is_known and own.march is not March.CPU else load_target(WHAT_IF, Path())[0]
    changed = approximations(resolved.recipe.restructure.approximate)
    step = changed[-1].step if changed else GRAPH
    graph = products.approximated(step)[0] if changed else products.graph
    found = placement(onnx.load(graph.path), target.march)
    return Inspection(
        model=resolved.recipe.name, origin=f"the graph of step {step}", target=target.name, placement=found
    )


def _proof(graph: Path) -> Proof:
    import onnx

    return GraphRecord.read(onnx.load(graph)).proof
