"""Texts that several verbs print: measurements, the summary of a run, layers, repair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bpudeploy.cli.output import table
from bpudeploy.digest import short
from bpudeploy.provenance import Provenance

if TYPE_CHECKING:
    from bpudeploy.predict.estimate import Estimate
    from bpudeploy.quantize.findings import LayerReport, RepairReport, RepairTrial
    from bpudeploy.results.golden import SelfCheck
    from bpudeploy.results.measurement import Interval, Measurement
    from bpudeploy.results.summary import Accuracy, Gate, Quantization, Summary
    from bpudeploy.spec.load import LoadedRecipe


def missing_lines(resolved: LoadedRecipe) -> list[str]:
    """Return one line for each field that a run of the recipe needs and that is missing."""
    return [f"{one.where}: {one.message}; {one.hint}" for one in resolved.lacks]


def span(value: Interval, digits: int = 1) -> str:
    """Return an interval as text."""
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def repair_line(repair: RepairReport) -> str:
    """Return whether ``check.max_drop`` holds on this machine, and what repair needed for it."""
    from bpudeploy.quantize.findings import RepairOutcome, change_text

    where, time = "on this machine", f"predicted slowdown {repair.slowdown:.3f}"
    if repair.latency_us is not None:
        where, time = "in the binary", latency_text(repair, repair.slowdown)
    taken = f"{len(repair.promoted)} more taps in int16, {time}"
    how = {
        RepairOutcome.NOT_NEEDED: "passed, no repair needed",
        RepairOutcome.REPAIRED: f"passed with {taken}",
        RepairOutcome.BEST_EFFORT: f"FAILED; the best of {len(repair.trials)} trials, with {taken}",
        RepairOutcome.NOT_POSSIBLE: "FAILED; no tap can be promoted to int16",
    }[repair.outcome]
    return f"check max_drop {repair.max_drop:g} points, {where}: {change_text(repair.drop)} points, {how}"


def trials_text(repair: RepairReport) -> str:
    """Return every trial of a repair."""
    from bpudeploy.quantize.findings import change_text

    def one(trial: RepairTrial) -> str:
        time = f" at {latency_text(repair, trial.slowdown)}" if repair.latency_us is not None else ""
        return f"{trial.promoted}: {change_text(trial.drop)}{time}"

    return f"{', '.join(map(one, repair.trials))} (chosen on these images, so optimistic)"


def latency_text(repair: RepairReport, slowdown: float) -> str:
    """Return the compiler's estimate at a slowdown, of a repair in the binary."""
    return f"{(repair.latency_us or 0.0) * slowdown / 1000.0:.3f} ms (compiler's estimate)"


def gate_line(gate: Gate) -> str:
    """Return a gate of ``check:``, on what it counts, and whether it holds."""
    verdict = "passed" if gate.holds else "FAILED"
    return f"check {gate.name} {gate.limit:g} {gate.unit}, {gate.on}: {gate.value_text}, {verdict}"


def summary_text(summary: Summary) -> Iterator[str]:
    """Yield a run's figures."""
    m = summary.measurement
    simulating = f", simulating {summary.predicted.board}" if summary.predicted is not None else ""
    yield f"\n{summary.recipe} on {summary.target}, release {short(summary.release)}, device {m.device}{simulating}"
    yield from (f"  warning: {warning}" for warning in summary.warnings)
    yield ""
    columns = ("accuracy", "computed on", ">top-1 %", "95 % interval", "change from float, points")
    rows = [(a.form, a.where, f"{a.top1.value:.1f}", span(a.top1), _change(a)) for a in summary.accuracy]
    yield from table(columns, rows)
    yield "  n.s.: not significant; MDD: minimum detectable difference at this number of images"
    yield f"  preprocessing {summary.preprocess}"
    yield f"  largest difference of the rewrite from float: {summary.proof_difference:.1e} of the logits' range"
    if summary.quantization is not None:
        yield from _quantization(summary.quantization)
    if summary.predicted is not None:
        yield from _predicted(summary.predicted)
    yield from measurement_lines(m)
    yield f"  {self_check_line(summary.self_check)}"
    yield from (f"  {gate_line(gate)}" for gate in summary.gates)
    yield f"\n  report: {summary.run_directory}/report.html"


def _change(accuracy: Accuracy) -> str:
    from bpudeploy.results.summary import Verdict

    drop = accuracy.drop
    if drop is None:
        return ""
    c = drop.change
    unknown = f"n.s. at {accuracy.images} images, MDD {drop.detectable:.1f}"
    verdict = unknown if drop.verdict is Verdict.CANNOT_TELL else drop.verdict
    return f"{c.value:+.1f} ({c.low:+.1f} to {c.high:+.1f}), p = {drop.p_value:.2g}, {verdict}"


def _predicted(e: Estimate) -> Iterator[str]:
    interval = f"{e.predicted_low_ms:.3g} to {e.predicted_high_ms:.3g}"
    yield f"\n  latency on {e.board}: PREDICTED {e.predicted_ms:.3g} ms ({interval}), {e.bound}-bound; nothing measured"
    yield f"  {e.segments} BPU segments, {e.cpu_nodes} nodes on the CPU; {e.basis}"


def _quantization(found: Quantization) -> Iterator[str]:
    taps = ", ".join(f"{count} in {precision}" for precision, count in found.taps.items())
    yield f"\n  quantized: {taps}; {'; '.join(found.levers)}"
    yield from worst_layers(found.layers, 5)
    if found.repair is not None:
        yield f"  {repair_line(found.repair)}"
        if len(found.repair.trials) > 1:
            yield f"  trials, taps in int16: change in points: {trials_text(found.repair)}"


def worst_layers(layers: LayerReport, count: int) -> Iterator[str]:
    """Yield the layers that int8 hurts most."""
    yield f"  worst of {len(layers.layers)} layers compared with float on {layers.images} images"
    for layer in layers.layers[:count]:
        inputs = f"{layer.input_precisions:<12} {layer.op:<7}"
        yield f"    {layer.sqnr_db:6.1f} dB  cosine {layer.cosine:.5f}  {inputs} {layer.node}"


def measurement_text(m: Measurement) -> Iterator[str]:
    """Yield a measurement with its heading and its accuracy."""
    where = f"{m.board} ({m.device})"
    yield f"{m.subject.recipe} for {m.subject.target}, release {short(m.subject.release)}, on {where}"
    if m.score is not None:
        five = f", top-5 {m.score.top5.value:.1f}" if m.score.top5 is not None else ""
        yield f"  top-1 {m.score.top1.value:.1f} % ({span(m.score.top1)}){five}, {m.score.images} images"
    yield from (line.removeprefix("\n") for line in measurement_lines(m))


def measurement_lines(m: Measurement) -> Iterator[str]:
    """Yield what was measured: latency, throughput, memory, conditions."""
    simulated = m.provenance is Provenance.SIMULATED
    where = "of the simulator on this machine, not of a board" if simulated else "on the board"
    if m.latency is not None and m.method is not None:
        yield (
            f"\n  latency {where}, measured, {m.latency.frames} frames in {len(m.rounds)} rounds, "
            f"each after a load and {m.method.warmup} warm-up frames"
        )
        yield from _percentiles(m)
        batch = f" with batches of {m.batch}" if m.batch > 1 else ""
        yield (
            f"  mean {m.latency.mean_ms:.2f} ± {m.latency.std_ms:.2f} ms, {m.latency.fps:.1f} images/s, "
            f"one stream{batch}"
        )
    for one in m.throughput:
        yield f"  {one.streams} streams: {one.fps.value:.1f} images/s ({span(one.fps)})"
    if m.score is not None and m.score.as_host is not None:
        alike = m.score.as_host
        yield f"  same top class as the quantized model on the host: {alike.value:.1f} % ({span(alike)})"
    yield "  " + "; ".join(_conditions(m))
    yield from (f"  CAVEAT {caveat}: {caveat.meaning}" for caveat in m.caveats)


def _percentiles(m: Measurement) -> Iterator[str]:
    from bpudeploy.results.latency import frames_for

    assert m.latency is not None
    yield f"  p50 {m.latency.p50_ms.value:8.2f} ms  ({span(m.latency.p50_ms, 2)})"
    for name, q, value in (("p90", 0.9, m.latency.p90_ms), ("p99", 0.99, m.latency.p99_ms)):
        if value is None:
            yield f"  {name}  not available: the tool on this board reports means only"
        elif value.high is None:
            few = f"at least {value.low:.2f}; an upper bound needs {frames_for(q)} independent frames"
            yield f"  {name} {value.value:8.2f} ms  ({few})"
        else:
            yield f"  {name} {value.value:8.2f} ms  ({value.low:.2f} to {value.high:.2f})"


def _conditions(m: Measurement) -> list[str]:
    from bpudeploy.results.session import hottest

    found = [f"loaded in {m.load_ms.value:.0f} ms ({span(m.load_ms, 0)})"] if m.load_ms is not None else []
    if m.peak_memory_mb is not None:
        found.append(f"peak memory {m.peak_memory_mb:.0f} MB")
    found.append(m.runtime)
    if m.facts is not None:
        found.append(f"{m.facts.cpu or m.facts.machine}, {m.facts.cores} cores")
    heat = hottest(m.conditions)
    if heat is not None:
        found.append(f"at most {heat:.0f} °C")
    return found


def self_check_line(check: SelfCheck) -> str:
    """Return how the golden self-check went."""
    return (
        f"self-check: {check.same} of {check.images} golden images have the host's top class; "
        f"the logits deviate by {check.deviation:.2g} of their spread (limit {check.limit:g})"
    )


def history_text(found: Sequence[Measurement]) -> list[str]:
    """Return a table with a line for each measurement."""
    rows = []
    for m in found:
        ms = m.latency.p50_ms.value if m.latency is not None else m.predicted_ms.value if m.predicted_ms else None
        top1 = f"{m.score.top1.value:.1f}" if m.score is not None else ""
        p50 = f"{ms:.2f}" if ms is not None else ""
        release, caveats = short(m.subject.release), ", ".join(m.caveats)
        rows.append((m.made[:16], release, m.subject.recipe, m.board, m.provenance, p50, top1, caveats))
    columns = ("when", "release", "recipe", "board", "provenance", ">p50, ms", ">top-1 %", "caveats")
    return table(columns, rows)
