"""report.html: one file, its plots inside, readable with no network."""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.results.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _QUIET, _ACCENT = "#1f2937", "#9ca3af", "#2563eb"


def write_report(summary: Summary, path: Path) -> None:
    """Draw ``summary`` as one self-contained HTML page at ``path``."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["megabytes"] = lambda n: f"{n / 1e6:,.2f} MB"
    environment.filters["seconds"] = lambda s: f"{s:,.2f} s"
    template = resources.files("bpudeploy.results").joinpath("report.html.jinja").read_text()
    plots = [
        ("Top-1, 95 % intervals", _svg(_accuracy(summary))),
        ("Latency on the board", _svg(_latency(summary))),
        ("Latency over the run", _svg(_over_time(summary))),
        ("Where the time went", _svg(_steps(summary))),
    ]
    page = environment.from_string(template).render(s=summary, plots=plots)
    path.write_text(page, encoding="utf-8")


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
