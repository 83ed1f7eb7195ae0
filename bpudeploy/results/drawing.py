"""Figures as SVG text, and pages as one file that loads nothing."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from bpudeploy.conformance.summary import format_count, reason_text
from bpudeploy.results.measurement import Interval, Percentile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, ACCENT, OTHER, BAD = "#1f2937", "#9ca3af", "#2563eb", "#b45309", "#b91c1c"
"""Text and marks; what is in the background; what is measured; what is not; what is wrong."""
CYCLE = ("#2563eb", "#b45309", "#15803d", "#7c3aed", "#be185d", "#0e7490", "#4d7c0f", "#475569")
"""Colours of lines that are told apart, dark enough for white paper."""
_PLAIN = {"svg.fonttype": "none", "svg.hashsalt": "bpudeploy", "font.family": "sans-serif", "text.parse_math": False}


@dataclass(frozen=True)
class Plot:
    """A figure of a page with its title; one that has nothing to draw says so in words."""

    title: str
    svg: str | None
    words: str = ""
    """Below the figure, or in its place."""


def figure(height: float, panels: int = 1, width: float = 6.2) -> tuple[Figure, list[Any]]:
    """Return a figure in inches and its axes, one below the other."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    every = list(drawn.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for axes in every:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    return drawn, every


def rows(axes: Any, names: list[str]) -> None:
    """Name the horizontal rows 0, 1, 2, ... of ``axes``."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)


def shorter(name: str, most: int = 40) -> str:
    """Return ``name`` with its middle left out where it is longer than ``most``: a plot needs its room for figures."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"


def in_legend(name: str, most: int) -> str:
    """Return ``name`` for a legend: one would leave out what begins with an underscore."""
    return shorter(f" {name}" if name.startswith("_") else name, most)


def svg(drawn: Figure) -> str:
    """Return a figure as an ``<svg>`` element, the same text for the same figure; no name in it is a formula."""
    import matplotlib
    from matplotlib.text import Text

    text = io.StringIO()
    with matplotlib.rc_context(_PLAIN):
        for one in drawn.findobj(Text):  # those that are there already; names may hold a $
            one.set_parse_math(False)
        drawn.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def page(
    template: str,
    values: Mapping[str, object],
    package: str = "bpudeploy.results",
    filters: Mapping[str, Callable[..., object]] | None = None,
) -> str:
    """Return a page of one of a package's templates; all that is put into it is escaped but SVG.

    Args:
        filters: the package's own, beside ``megabytes``; those of the results when left out.
    """
    import jinja2

    own = [file for file in resources.files(package).iterdir() if file.name.endswith(".jinja")]
    files = {file.name: file.read_text(encoding="utf-8") for file in own}
    files["page.css"] = resources.files("bpudeploy.results").joinpath("page.css").read_text(encoding="utf-8")
    loader = jinja2.DictLoader(files)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["megabytes"] = lambda n: f"{n / 1e6:,.2f} MB"
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
}
