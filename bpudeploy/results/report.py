"""report.html, the page of one run: one file, its plots inside, readable with no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bpudeploy.conformance.grouping import NodeGroup, group_nodes
from bpudeploy.conformance.picture import picture
from bpudeploy.conformance.report import Inspection
from bpudeploy.conformance.summary import summary_lines
from bpudeploy.quantize.findings import Layers, Repair
from bpudeploy.results.drawing import ACCENT, INK, QUIET, Plot, figure, page, rows, svg
from bpudeploy.results.latency import frames_for
from bpudeploy.results.measured_plots import latency_histogram, latency_over_time, layer_costs, temperatures
from bpudeploy.results.measurement import Interval, Measurement, Percentile
from bpudeploy.results.summary import Quantization, Summary
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.recipe import GovernorMode


@dataclass(frozen=True)
class _Placed:
    """What a page shows of a placement."""

    groups: tuple[NodeGroup, ...]
    sums: tuple[tuple[str, str], ...]
    picture: str

    @classmethod
    def of(cls, inspection: Inspection) -> _Placed:
        p = inspection.placement
        return cls(group_nodes(p.nodes), tuple(summary_lines(p)), picture(p))


def write_report(summary: Summary, path: Path) -> None:
    """Draw ``summary`` as one self-contained HTML page at ``path``."""
    m = summary.measurement
    plots = [Plot("Top-1, 95 % intervals", _accuracy(summary)), *_measured(summary)]
    plots.append(Plot("Where the time of the run went", _steps(summary)))
    plots += _quantization(summary.quantization) if summary.quantization is not None else []
    values = {
        "s": summary,
        "plots": plots,
        "placed": _Placed.of(summary.placement) if summary.placement is not None else None,
        "percentiles": percentiles(m),
        "method": method(m),
    }
    path.write_text(page("report.html.jinja", values), encoding="utf-8")


def write_inspection(found: Sequence[Inspection], path: Path) -> None:
    """Draw where each graph's operators would run as one self-contained HTML page at ``path``.

    Raises:
        OSError: it cannot be written.
    """
    shown = [(one, _Placed.of(one)) for one in found]
    path.write_text(page("inspection.html.jinja", {"found": shown}), encoding="utf-8")


def percentiles(m: Measurement) -> list[tuple[str, Interval | Percentile | None, str]]:
    """Return each percentile with what else there is to say of it, or why it is not stated."""
    if m.latency is None:
        return []
    found: list[tuple[str, Interval | Percentile | None, str]] = [("p50", m.latency.p50_ms, "")]
    for name, q, value in (("p90", 0.9, m.latency.p90_ms), ("p99", 0.99, m.latency.p99_ms)):
        words = ""
        if value is None:
            words = "not stated: only a tool of the board can time, and it tells means of frames"
        elif value.high is None:
            words = (
                f"not bounded from above: {m.latency.frames} frames are too few; those of one round are alike, "
                f"and all together tell less than {frames_for(q)} independent ones"
            )
        found.append((name, value, words))
    return found


def method(m: Measurement) -> list[str]:
    """Return in words how it was measured."""
    how = m.method
    if how is None or m.latency is None:
        return []
    begins = "a round begins at once, however warm it is"
    if how.cool_below is not None:
        begins = f"a round begins below {how.cool_below:g} °C, or is marked hot after {how.cool_seconds:g} s"
    held = (
        "held at their maximum where the account may do that" if how.governor is GovernorMode.PERFORMANCE else "as is"
    )
    timed = sum(ms * one.per_sample for one in m.rounds for ms in one.samples_ms) / 1000
    return [
        f"{len(m.rounds)} rounds, each after a load of its own",
        f"{how.warmup} frames of warm-up in each, not counted",
        f"{m.latency.frames} frames timed" + (f" in {timed:.3g} s" if timed else ""),
        f"asked for: {how.rounds} rounds, {how.min_frames} frames and {how.min_seconds:g} s, and p50 within "
        f"{how.precision:g} % of itself, in at most {how.max_seconds:g} s",
        f"CPU threads: {'the board’s own choice' if how.threads is None else how.threads}",
        f"clocks {held}",
        begins,
        "intervals take the frames of one round as alike",
    ]


def _measured(summary: Summary) -> list[Plot]:
    """Return the plots of the measurement, each saying whose it is."""
    m = summary.measurement
    found = [latency_histogram(m), latency_over_time(m), temperatures(m), layer_costs(m)]
    whose = "on the board" if summary.predicted is None else "of the simulator, not of a board"
    return [replace(one, title=f"{one.title}, {whose}") for one in found]


def _accuracy(summary: Summary) -> str:
    forms = list(reversed(summary.accuracy))
    drawn, (axes,) = figure(0.5 * len(forms) + 0.9)
    for y, row in enumerate(forms):
        axes.plot([row.top1.low, row.top1.high], [y, y], color=QUIET, linewidth=2)
        axes.plot([row.top1.value], [y], "o", color=ACCENT)
        axes.annotate(f"{row.top1.value:.1f}", (row.top1.value, y), (0, 7), textcoords="offset points", ha="center")
    rows(axes, [form.form for form in forms])
    axes.set_ylim(-0.6, len(forms) - 0.3)
    axes.set_xlabel("top-1, %")
    return svg(drawn)


def _steps(summary: Summary) -> str:
    steps = list(reversed(summary.steps))
    drawn, (axes,) = figure(0.28 * len(steps) + 0.8)
    colours = [ACCENT if row.cache == "miss" else QUIET for row in steps]
    axes.barh([row.name for row in steps], [row.seconds for row in steps], color=colours)
    axes.set_xlabel("seconds (grey: from the store, time of the run that made it)")
    return svg(drawn)


def _quantization(found: Quantization) -> list[Plot]:
    plots = []
    if found.layers.layers:
        plots.append(Plot("Each layer against float, in the graph's order", _by_layer(found.layers)))
    if found.repair is not None and len(found.repair.trials) > 1:
        plots.append(Plot("Repair: loss measured here, slowdown predicted", _repair(found.repair)))
    return plots


def _by_layer(layers: Layers) -> str:
    drawn, (axes,) = figure(2.4)
    for held, colour in ((True, ACCENT), (False, INK)):
        mine = [layer for layer in layers.layers if (Precision.INT8 in layer.inputs) is held]
        if mine:
            label = "reads int8" if held else "reads none"
            axes.plot([m.index for m in mine], [m.sqnr_db for m in mine], ".", color=colour, label=label)
    axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("Conv and MatMul, first to last")
    axes.set_ylabel("SQNR, dB")
    return svg(drawn)


def _repair(repair: Repair) -> str:
    drawn, (axes,) = figure(2.6)
    trials = sorted(repair.trials, key=lambda t: t.promoted)
    axes.plot([t.slowdown for t in trials], [t.drop for t in trials], color=QUIET, linewidth=1)
    for t in trials:
        chosen = (t.drop, t.promoted) == (repair.drop, len(repair.promoted))
        axes.plot([t.slowdown], [t.drop], "o", color=ACCENT if chosen else QUIET)
    for slowdown in dict.fromkeys(t.slowdown for t in trials):  # trials that cost the same stand one above the other
        mine = [t for t in trials if t.slowdown == slowdown]
        at, text = (slowdown, max(t.drop for t in mine)), ", ".join(str(t.promoted) for t in mine)
        axes.annotate(text, at, (0, 6), textcoords="offset points", ha="center")
    axes.axhline(repair.max_drop, color=INK, linewidth=1, linestyle=":")
    axes.margins(y=0.2)
    axes.set_xlabel("predicted slowdown, not measured; the number of taps in int16 above each")
    axes.set_ylabel("top-1 lost, points")
    return svg(drawn)
