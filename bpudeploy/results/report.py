"""report.html, the self-contained page of one run, and the page of `inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bpudeploy.conformance.grouping import group_nodes
from bpudeploy.conformance.picture import picture
from bpudeploy.conformance.report import Inspection
from bpudeploy.conformance.summary import summary_lines
from bpudeploy.quantize.findings import LayerReport, RepairReport
from bpudeploy.results.drawing import ACCENT, INK, QUIET, Plot, figure, label_rows, page, svg
from bpudeploy.results.latency import frames_for
from bpudeploy.results.measured_plots import latency_histogram, latency_over_time, layer_costs, temperatures
from bpudeploy.results.measurement import Interval, Measurement, Percentile
from bpudeploy.results.summary import Quantization, Summary
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.recipe import GovernorMode


def write_report(summary: Summary, path: Path) -> None:
    """Write ``summary`` as one self-contained HTML page."""
    m = summary.measurement
    plots = [Plot("Top-1, 95 % intervals", _accuracy(summary)), *_measured(summary)]
    plots.append(Plot("Duration of the steps of the run", _steps(summary)))
    plots += _quantization(summary.quantization) if summary.quantization is not None else []
    values = {
        "s": summary,
        "plots": plots,
        "placed": _placement(summary.placement) if summary.placement is not None else None,
        "percentiles": _percentiles(m),
        "method": _method(m),
    }
    path.write_text(page("report.html.jinja", values), encoding="utf-8")


def write_inspection(found: Sequence[Inspection], path: Path) -> None:
    """Write where each graph's operators would run as one self-contained HTML page.

    Raises:
        OSError: it cannot be written.
    """
    shown = [(one, _placement(one)) for one in found]
    path.write_text(page("inspection.html.jinja", {"found": shown}), encoding="utf-8")


def _placement(inspection: Inspection) -> Mapping[str, object]:
    p = inspection.placement
    return {"groups": group_nodes(p.nodes), "sums": tuple(summary_lines(p)), "picture": picture(p)}


def _percentiles(m: Measurement) -> list[tuple[str, Interval | Percentile | None, str]]:
    """Return each percentile with a note, or without a value if the board's tool reports only means."""
    if m.latency is None:
        return []
    rows: list[tuple[str, Interval | Percentile | None, str]] = []
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        value, note = getattr(m.latency, f"{name}_ms"), ""
        if value is None:
            note = "not available: the board's tool reports only means of frames"
        elif value.high is None:
            note = (
                f"no upper bound: {m.latency.frames} frames are too few; frames of one round are correlated, "
                f"and all of them are worth fewer than {frames_for(q)} independent ones"
            )
        rows.append((name, value, note))
    return rows


def _method(m: Measurement) -> list[str]:
    """Return how the latency was measured, one phrase per setting."""
    how = m.method
    if how is None or m.latency is None:
        return []
    start = "no cool-down between rounds"
    if how.cool_below is not None:
        start = f"rounds start below {how.cool_below:g} °C, or are marked hot after {how.cool_seconds:g} s"
    locked = "locked to their maximum if permitted" if how.governor is GovernorMode.PERFORMANCE else "not changed"
    timed = sum(ms * one.per_sample for one in m.rounds for ms in one.samples_ms) / 1000
    return [
        f"{len(m.rounds)} rounds, each after loading the model",
        f"{how.warmup} warm-up frames per round, not counted",
        f"{m.latency.frames} frames timed" + (f" in {timed:.3g} s" if timed else ""),
        f"required: {how.rounds} rounds, {how.min_frames} frames, {how.min_seconds:g} s and p50 within "
        f"±{how.precision:g} %, in at most {how.max_seconds:g} s",
        f"CPU threads: {'the board’s default' if how.threads is None else how.threads}",
        f"clocks {locked}",
        start,
        "intervals account for the correlation of frames within a round",
    ]


def _measured(summary: Summary) -> list[Plot]:
    m = summary.measurement
    plots = [latency_histogram(m), latency_over_time(m), temperatures(m), layer_costs(m)]
    whose = "on the board" if summary.predicted is None else "of the simulator, not of a board"
    return [replace(one, title=f"{one.title}, {whose}") for one in plots]


def _accuracy(summary: Summary) -> str:
    forms = list(reversed(summary.accuracy))
    drawn, (axes,) = figure(0.5 * len(forms) + 0.9)
    for y, row in enumerate(forms):
        axes.plot([row.top1.low, row.top1.high], [y, y], color=QUIET, linewidth=2)
        axes.plot([row.top1.value], [y], "o", color=ACCENT)
        axes.annotate(f"{row.top1.value:.1f}", (row.top1.value, y), (0, 7), textcoords="offset points", ha="center")
    label_rows(axes, [form.form for form in forms])
    axes.set_ylim(-0.6, len(forms) - 0.3)
    axes.set_xlabel("top-1, %")
    return svg(drawn)


def _steps(summary: Summary) -> str:
    steps = list(reversed(summary.steps))
    drawn, (axes,) = figure(0.28 * len(steps) + 0.8)
    colours = [ACCENT if row.cache == "miss" else QUIET for row in steps]
    axes.barh([row.name for row in steps], [row.seconds for row in steps], color=colours)
    axes.set_xlabel("seconds (grey: cached, duration of the original run)")
    return svg(drawn)


def _quantization(found: Quantization) -> list[Plot]:
    plots = []
    if found.layers.layers:
        plots.append(Plot("Each layer compared with float, in graph order", _by_layer(found.layers)))
    if found.repair is not None and len(found.repair.trials) > 1:
        how = "measured on this machine, slowdown predicted"
        if found.repair.latency_us is not None:
            how = "simulated bit-exactly, latency estimated by the compiler"
        plots.append(Plot(f"Repair: accuracy {how}", _repair(found.repair)))
    return plots


def _by_layer(layers: LayerReport) -> str:
    drawn, (axes,) = figure(2.4)
    for int8, label, colour in ((True, "int8 inputs", ACCENT), (False, "no int8 inputs", INK)):
        some = [layer for layer in layers.layers if (Precision.INT8 in layer.inputs) is int8]
        if some:
            axes.plot([one.index for one in some], [one.sqnr_db for one in some], ".", color=colour, label=label)
    axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("Conv and MatMul, first to last")
    axes.set_ylabel("SQNR, dB")
    return svg(drawn)


def _repair(repair: RepairReport) -> str:
    drawn, (axes,) = figure(2.6)
    trials = sorted(repair.trials, key=lambda t: t.promoted)
    unit = repair.latency_us or 1.0
    axes.plot([unit * t.slowdown for t in trials], [-t.drop for t in trials], color=QUIET, linewidth=1)
    for t in trials:
        chosen = (t.drop, t.promoted) == (repair.drop, len(repair.promoted))
        axes.plot([unit * t.slowdown], [-t.drop], "o", color=ACCENT if chosen else QUIET)
    for slowdown in dict.fromkeys(t.slowdown for t in trials):  # one label for trials of equal slowdown
        same = [t for t in trials if t.slowdown == slowdown]
        above, text = (unit * slowdown, max(-t.drop for t in same)), ", ".join(str(t.promoted) for t in same)
        axes.annotate(text, above, (0, 6), textcoords="offset points", ha="center")
    axes.axhline(-repair.max_drop, color=INK, linewidth=1, linestyle=":")
    axes.margins(y=0.2)
    time = "predicted slowdown, not measured" if repair.latency_us is None else "microseconds, the compiler's estimate"
    axes.set_xlabel(f"{time}; labels: number of taps in int16")
    axes.set_ylabel("top-1 minus float, points")
    return svg(drawn)
