"""Plots of a metric per night: boards, invalid nights, levels, and the first bad night."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from bpudeploy.nightly.formatting import format_time, provenance_suffix
from bpudeploy.nightly.history import MetricHistory
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import JobResult, Reference
from bpudeploy.nightly.series import Point
from bpudeploy.results.drawing import ACCENT, BAD, CYCLE, INK, OTHER, QUIET, Plot, figure, in_legend, shorter, svg

SMALL_PLOT_NIGHTS = 120
"""Nights in a small plot, the newest."""
MAX_POINTS = 400
"""Points in a large plot; older ones are thinned."""
_BEFORE = 60
"""Nights shown before a regression."""
_MAX_BOARDS = 8
_MARKERS = "osD^vPX*"
_TICKS = 5
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class _View:
    """The plotted points of a history (by index), and their positions on the time axis, in days."""

    history: MetricHistory
    shown: tuple[int, ...]

    def day(self, index: int) -> float:
        return self.day_of(self.history.series.points[index].at)

    def day_of(self, at: datetime) -> float:
        return (at - self.history.series.points[self.shown[0]].at) / _DAY

    @property
    def last_day(self) -> float:
        return self.day(len(self.history.series.points) - 1)

    @property
    def points(self) -> list[tuple[int, Point]]:
        return [(index, self.history.series.points[index]) for index in self.shown]


def regression_plot(history: MetricHistory, job: JobResult) -> Plot:
    """Plot a history around the first bad night."""
    bad = _first_bad(history, job)
    points = history.series.points
    first = 0 if bad is None else next((i for i, point in enumerate(points) if point.at >= bad), len(points) - 1)
    begin = min(max(0, first - _BEFORE), max(0, len(points) - SMALL_PLOT_NIGHTS))
    return _plot(history, job, begin, (10.0, 3.0), bad)


def small_plot(history: MetricHistory, job: JobResult) -> Plot:
    """Plot the newest nights of a history."""
    return _plot(history, job, max(0, len(history.series.points) - SMALL_PLOT_NIGHTS), (4.2, 1.9), None)


def _plot(history: MetricHistory, job: JobResult, begin: int, size: tuple[float, float], bad: datetime | None) -> Plot:
    metric = history.metric
    view = _View(history, _thinned(begin, len(history.series.points)))
    drawn, (axes,) = figure(size[1], width=size[0])
    _draw_points(axes, view, _board_names(view, job))
    level = _draw_levels(axes, view)
    baselines = [f for f in job.findings if f.against is Reference.BASELINE and f.metric is metric]
    pinned = next((f.before for f in baselines if f.before is not None), None)
    if pinned is not None:
        axes.axhline(pinned, color=OTHER, linewidth=1.1, linestyle=(0, (5, 2)), label="pinned baseline")
        level = pinned
    at_least = history.series.at_least
    margin = at_least if metric is Metric.TOP1 else abs(level) * at_least / 100
    axes.axhspan(level - margin, level + margin, color=QUIET, alpha=0.16, linewidth=0)
    interval = job.p50_ms if metric is Metric.P50 else None
    limits = [level - margin, level + margin]
    if interval is not None:
        ends = [interval.low, interval.high]
        limits += ends
        axes.plot([view.last_day] * 2, ends, color=INK, linewidth=1.6, solid_capstyle="butt", label="tonight, 95 %")
    if bad is not None:
        _draw_first_bad(axes, view, bad)
    beyond = _set_limits(axes, view, limits)
    _draw_dates(axes, view)
    axes.set_ylabel(metric.unit, fontsize=9, color=INK)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.03))
    title = f"{metric.label} of {shorter(history.job, 60)}{provenance_suffix(job)}"
    return Plot(title, svg(drawn), _caption(view, pinned is not None, beyond, bad))


def _thinned(begin: int, total: int) -> tuple[int, ...]:
    """Return indices from ``begin`` on; if there are too many, all of the newest and every nth of the older ones."""
    latest = max(begin, total - MAX_POINTS // 2)
    step = -(-(latest - begin) // (MAX_POINTS // 2)) or 1
    return (*range(begin, latest, step), *range(latest, total))


def _draw_points(axes: Any, view: _View, names: Mapping[str, str]) -> None:
    """Plot each board's nights in its own colour and shape, invalid ones hollow."""
    boards = list(dict.fromkeys(point.board for _, point in view.points))
    for number, board in enumerate(boards[:_MAX_BOARDS]):
        these = boards[number:] if number == _MAX_BOARDS - 1 else [board]
        points = [one for one in view.points if one[1].board in these]
        colour = ACCENT if len(boards) == 1 else CYCLE[number % len(CYCLE)]
        style = {"marker": _MARKERS[number], "color": colour, "markersize": 3.6, "linestyle": "none"}
        style["label"] = f"{len(these)} other boards" if len(these) > 1 else in_legend(names.get(board, "a night"), 22)
        valid = [(view.day(index), point.value) for index, point in points if not point.invalid]
        invalid = [(view.day(index), point.value) for index, point in points if point.invalid]
        axes.plot([x for x, _ in valid], [y for _, y in valid], alpha=0.85, **style)
        if invalid:
            hollow = style | {"markerfacecolor": "white", "label": None, "markersize": 4.2}
            axes.plot([x for x, _ in invalid], [y for _, y in invalid], **hollow)


def _board_names(view: _View, job: JobResult) -> dict[str, str]:
    """Return the name of each board: the fleet's for tonight's board, the address for others."""
    found = {point.board: view.history.measured[index].board for index, point in view.points if point.board}
    if job.board is not None and job.board_id in found:
        found[job.board_id] = job.board
    return found


def _draw_levels(axes: Any, view: _View) -> float:
    """Plot the level before and after each change, or the median; return the reference level."""
    changes, points = view.history.changes, view.history.series.points
    begin, end = view.day(view.shown[0]), view.last_day
    if not changes:
        judged = [point.value for point in points if not point.invalid] or [point.value for point in points]
        middle = statistics.median(judged)
        axes.plot([begin, end], [middle, middle], color=INK, linewidth=1, linestyle=":", label="median")
        return middle
    edges = [float("-inf"), *(view.day(change.first) for change in changes), end]
    for number, change in enumerate(changes):
        before, at, after = edges[number : number + 3]
        if at >= begin:
            axes.plot([max(begin, before), at], [change.before, change.before], color=INK, linewidth=1.2)
        label = "level" if number == len(changes) - 1 else None
        axes.plot([max(begin, at), after], [change.after, change.after], color=INK, linewidth=1.2, label=label)
    regression = view.history.regression
    return regression.before if regression is not None else changes[-1].after


def _draw_first_bad(axes: Any, view: _View, bad: datetime) -> None:
    x = max(0.0, view.day_of(bad))
    axes.axvline(x, color=BAD, linewidth=1.2)
    axes.annotate(
        f"first bad night {bad:%Y-%m-%d}",
        (x, 1.0),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=8,
        color=BAD,
        ha="center",
    )


def _set_limits(axes: Any, view: _View, more: Sequence[float]) -> bool:
    """Show all levels and nearly all points, the rest as triangles at the edge; return whether there are any."""
    values = sorted(point.value for _, point in view.points)
    levels = [level for change in view.history.changes for level in (change.before, change.after)]
    kept = [*more, *levels, *(point.value for _, point in view.points[-3:])]
    low = min(values[len(values) // 20], *kept)
    high = max(values[-1 - len(values) // 20], *kept)
    margin = (high - low) / 2 or abs(high) / 20 or 1.0
    inside = [value for value in values if low - margin <= value <= high + margin]
    low, high = min([low, *inside]), max([high, *inside])
    edge = 0.06 * (high - low or margin)
    axes.set_ylim(low - edge, high + edge)
    beyond = [one for one in view.points if not low <= one[1].value <= high]
    for index, point in beyond:
        at, marker = (high, "^") if point.value > high else (low, "v")
        fill = "white" if point.invalid else INK
        axes.plot([view.day(index)], [at], marker, color=INK, markerfacecolor=fill, markersize=5, clip_on=False)
    return bool(beyond)


def _draw_dates(axes: Any, view: _View) -> None:
    begin, end = view.history.series.points[view.shown[0]].at, view.history.series.points[-1].at
    span = view.day_of(end)
    if 0 < span < 1:  # a trial during one day
        ticks, form, margin = [begin + n / 4 * (end - begin) for n in range(5)], "%H:%M", 0.03 * span
    else:
        days = max(1, (end.date() - begin.date()).days)
        step = max(1, -(-days // _TICKS))
        ticks = [end - n * step * _DAY for n in range(days // step + 1)]
        form, margin = "%b %d" if days < 300 else "%Y-%m", max(0.5, 0.02 * span)
    axes.set_xticks([view.day_of(tick) for tick in ticks], [f"{tick:{form}}" for tick in ticks])
    axes.set_xlim(-margin, span + margin)


def _first_bad(history: MetricHistory, job: JobResult) -> datetime | None:
    """Return the first bad night by the history, or else by the baseline."""
    since = {f.against: f.since for f in job.regressions if f.metric is history.metric and f.since is not None}
    at = since.get(Reference.HISTORY, since.get(Reference.BASELINE))
    found = datetime.fromisoformat(at) if at is not None else None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def _caption(view: _View, pinned: bool, beyond: bool, bad: datetime | None) -> str:
    total, shown = len(view.history.series.points), view.shown
    words = []
    if len(shown) < total:
        all_newest = len({later - earlier for earlier, later in pairwise(shown)}) == 1
        which = "the latest" if all_newest else "all of the latest, some of the older ones"
        words.append(f"{len(shown)} of {total} nights: {which}.")
    unit = view.history.metric.change_unit
    around = "the pinned baseline" if pinned else "the level"
    words.append(f"Grey: threshold, {view.history.series.at_least:g} {unit} around {around}.")
    if any(point.invalid for _, point in view.points):
        words.append("Hollow: invalid because of the board's conditions, not judged.")
    if beyond:
        words.append("Triangle at the edge: far beyond the axis.")
    if view.history.changes:
        words.append("Levels exclude the effects of boards, temperature and drift.")
    if bad is not None and bad < view.history.series.points[shown[0]].at:
        words.append(f"Bad since {format_time(bad.isoformat())} UTC, before the first night shown.")
    return " ".join(words)
