"""report.html: one file, its plots inside, readable with no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.conformance.grouping import Group, groups
from bpudeploy.conformance.picture import picture
from bpudeploy.conformance.report import Inspection
from bpudeploy.conformance.words import in_words, sums, why
from bpudeploy.quantize.findings import Layers, Repair
from bpudeploy.results.summary import Quantization, Summary
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

_INK, _QUIET, _ACCENT = "#1f2937", "#9ca3af", "#2563eb"


_TEMPLATES = (
    "report.html.jinja",
    "quantization.html.jinja",
    "inspection.html.jinja",
    "placement.html.jinja",
    "page.css",
)


@dataclass(frozen=True)
class _Placed:
    """What a page shows of a placement."""

    groups: tuple[Group, ...]
    sums: tuple[tuple[str, str], ...]
    picture: str

    @classmethod
    def of(cls, inspection: Inspection) -> _Placed:
        p = inspection.placement
        return cls(groups(p.nodes), tuple(sums(p)), picture(p))


def write_report(summary: Summary, path: Path) -> None:
    """Draw ``summary`` as one self-contained HTML page at ``path``."""
    whose = "on the board" if summary.predicted is None else "of the simulator, not of a board"
    plots = [
        ("Top-1, 95 % intervals", _svg(_accuracy(summary))),
        (f"Latency {whose}", _svg(_latency(summary))),
        ("Latency over the run", _svg(_over_time(summary))),
        ("Where the time went", _svg(_steps(summary))),
    ]
    plots += _quantization(summary.quantization) if summary.quantization is not None else []
    placed = _Placed.of(summary.placement) if summary.placement is not None else None
    page = _pages().get_template("report.html.jinja").render(s=summary, plots=plots, placed=placed)
    path.write_text(page, encoding="utf-8")


def write_inspection(found: Sequence[Inspection], path: Path) -> None:
    """Draw where each graph's operators would run as one self-contained HTML page at ``path``.

    Raises:
        OSError: it cannot be written.
    """
    shown = [(one, _Placed.of(one)) for one in found]
    path.write_text(_pages().get_template("inspection.html.jinja").render(found=shown), encoding="utf-8")


def _pages() -> jinja2.Environment:
    import jinja2

    folder = resources.files("bpudeploy.results")
    loader = jinja2.DictLoader({name: folder.joinpath(name).read_text() for name in _TEMPLATES})
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["megabytes"] = lambda n: f"{n / 1e6:,.2f} MB"
    environment.filters["seconds"] = lambda s: f"{s:,.2f} s"
    environment.filters["counted"] = in_words
    environment.filters["why"] = why
    return environment


def _figure(height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    return figure, axes


def _svg(figure: Figure) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bpudeploy", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _accuracy(summary: Summary) -> Figure:
    rows = list(reversed(summary.accuracy))
    figure, axes = _figure(0.5 * len(rows) + 0.9)
    for y, row in enumerate(rows):
        axes.plot([row.top1.low, row.top1.high], [y, y], color=_QUIET, linewidth=2)
        axes.plot([row.top1.value], [y], "o", color=_ACCENT)
        axes.annotate(f"{row.top1.value:.1f}", (row.top1.value, y), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(rows)), [row.form for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_xlabel("top-1, %")
    return figure


def _latency(summary: Summary) -> Figure:
    latency = summary.measurement.latency
    figure, axes = _figure(2.6)
    axes.hist(latency.samples_ms, bins=40, color=_ACCENT, alpha=0.75)
    marks = (("p50", latency.p50_ms), ("p90", latency.p90_ms), ("p99", latency.p99_ms))
    for row, (name, value) in enumerate(marks):  # one below the other: they may stand close
        axes.axvline(value.value, color=_INK, linewidth=1, linestyle=":")
        below = (2, -8 - 11 * row)
        axes.annotate(name, (value.value, 1), below, xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set_xlabel("ms a frame")
    axes.set_ylabel("frames")
    return figure


def _over_time(summary: Summary) -> Figure:
    samples = summary.measurement.latency.samples_ms
    figure, axes = _figure(2.2)
    axes.plot(range(1, len(samples) + 1), samples, ".", color=_ACCENT, markersize=3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frame, warm-up excluded")
    axes.set_ylabel("ms")
    return figure


def _steps(summary: Summary) -> Figure:
    rows = list(reversed(summary.steps))
    figure, axes = _figure(0.28 * len(rows) + 0.8)
    colours = [_ACCENT if row.cache == "miss" else _QUIET for row in rows]
    axes.barh([row.name for row in rows], [row.seconds for row in rows], color=colours)
    axes.set_xlabel("seconds (grey: from the store, time of the run that made it)")
    return figure


def _quantization(found: Quantization) -> list[tuple[str, str]]:
    plots = []
    if found.layers.layers:
        plots.append(("Each layer against float, in the graph's order", _svg(_by_layer(found.layers))))
    if found.repair is not None and len(found.repair.trials) > 1:
        plots.append(("Repair: loss measured here, slowdown predicted", _svg(_repair(found.repair))))
    return plots


def _by_layer(layers: Layers) -> Figure:
    figure, axes = _figure(2.4)
    for held, colour in ((True, _ACCENT), (False, _INK)):
        mine = [layer for layer in layers.layers if (Precision.INT8 in layer.inputs) is held]
        if mine:
            label = "reads int8" if held else "reads none"
            axes.plot([m.index for m in mine], [m.sqnr_db for m in mine], ".", color=colour, label=label)
    axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("Conv and MatMul, first to last")
    axes.set_ylabel("SQNR, dB")
    return figure


def _repair(repair: Repair) -> Figure:
    figure, axes = _figure(2.6)
    trials = sorted(repair.trials, key=lambda t: t.promoted)
    axes.plot([t.slowdown for t in trials], [t.drop for t in trials], color=_QUIET, linewidth=1)
    for t in trials:
        chosen = (t.drop, t.promoted) == (repair.drop, len(repair.promoted))
        axes.plot([t.slowdown], [t.drop], "o", color=_ACCENT if chosen else _QUIET)
    for slowdown in dict.fromkeys(t.slowdown for t in trials):  # trials that cost the same stand one above the other
        mine = [t for t in trials if t.slowdown == slowdown]
        at, text = (slowdown, max(t.drop for t in mine)), ", ".join(str(t.promoted) for t in mine)
        axes.annotate(text, at, (0, 6), textcoords="offset points", ha="center")
    axes.axhline(repair.max_drop, color=_INK, linewidth=1, linestyle=":")
    axes.margins(y=0.2)
    axes.set_xlabel("predicted slowdown, not measured; the number of taps in int16 above each")
    axes.set_ylabel("top-1 lost, points")
    return figure
