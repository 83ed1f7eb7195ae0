"""Figures as SVG, HTML pages that load no other file, and their counts and durations as text."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpudeploy.conformance.summary import format_count, reason_text
from bpudeploy.results.measurement import Interval, Percentile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, ACCENT, OTHER, BAD = "#1f2937", "#9ca3af", "#2563eb", "#b45309", "#b91c1c"
"""Colours of text and marks, background, measured values, other values, errors."""
CYCLE = ("#2563eb", "#b45309", "#15803d", "#7c3aed", "#be185d", "#0e7490", "#4d7c0f", "#475569")
"""Distinguishable line colours, dark enough on white."""
_PLAIN = {"svg.fonttype": "none", "svg.hashsalt": "bpudeploy", "font.family": "sans-serif", "text.parse_math": False}


@dataclass(frozen=True)
class Plot:
    """A figure with its title; without data, only text."""

    title: str
    svg: str | None
    words: str = ""
    """Shown below the figure, or in place of it."""


def figure(height: float, panels: int = 1, width: float = 6.2) -> tuple[Figure, list[Any]]:
    """Return a figure (sizes in inches) and its axes, stacked vertically."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    every = list(drawn.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    return drawn, every


def label_rows(axes: Any, names: list[str]) -> None:
    """Label the y positions 0, 1, 2, ... of ``axes``."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)


def shorter(name: str, most: int = 40) -> str:
    """Return ``name`` abbreviated in the middle to ``most`` characters."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"


def in_legend(name: str, most: int) -> str:
    """Return ``name`` for a legend; matplotlib skips labels that begin with an underscore."""
    return shorter(f" {name}" if name.startswith("_") else name, most)


def svg(drawn: Figure) -> str:
    """Return a figure as an ``<svg>`` element, deterministic, with no text parsed as a formula."""
    import matplotlib
    from matplotlib.text import Text

    text = io.StringIO()
    with matplotlib.rc_context(_PLAIN):
        for one in drawn.findobj(Text):  # existing text; names may contain a $
            one.set_parse_math(False)
        drawn.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def plural(count: int, noun: str) -> str:
    """Return "1 job", "2 jobs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration such as ``4.2 s``, ``3 min 05 s`` or ``1 h 02 min``."""
    whole = round(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def page(
    template: str,
    values: Mapping[str, object],
    package: str = "bpudeploy.results",
    filters: Mapping[str, Callable[..., object]] | None = None,
) -> str:
    """Render a template of a package; all values are escaped, except SVG.

    Args:
        filters: in addition to ``megabytes``, ``duration`` and ``signed``; by default those of the results.
    """
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in (package, "bpudeploy.results")])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["megabytes"] = lambda n: f"{n / 1e6:,.2f} MB"
    environment.filters["duration"] = format_duration
    environment.filters["signed"] = lambda value, digits=1: f"{value:+z.{digits}f}"
    environment.filters.update(_FILTERS if filters is None else filters)
    environment.tests["contains"] = lambda values, one: one in values
    return environment.get_template(template).render(values)


def _span(value: Interval | Percentile, digits: int = 1) -> str:
    if value.high is None:
        return f"at least {value.low:.{digits}f}"
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


_FILTERS: Mapping[str, Callable[..., object]] = {
    "seconds": lambda s: f"{s:,.2f} s",
    "counted": format_count,
    "why": reason_text,
    "median": statistics.median,
    "span": _span,
    "signed_span": lambda value: f"{value.low:+z.1f} to {value.high:+z.1f}",
}
