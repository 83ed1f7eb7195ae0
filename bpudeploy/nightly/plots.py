"""Plots of a metric night by night: whose board, what was invalid, on which level, and since which night it is bad."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bpudeploy.nightly.history import History
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Against, Finding, JobResult
from bpudeploy.nightly.series import Point
from bpudeploy.nightly.words import clock, made_of
from bpudeploy.results.drawing import ACCENT, BAD, CYCLE, INK, OTHER, QUIET, Plot, figure, in_legend, shorter, svg
from bpudeploy.results.measurement import Interval

FEW = 120
"""The latest nights that a small plot shows."""
MOST = 400
"""Points of a large one; of more, some in the middle are left out."""
_BEFORE = 60
"""Nights that are shown before a change that is looked at."""
_BOARDS = 8
_MARKERS = "osD^vPX*"
_TICKS = 5
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class _Drawn:
    """The points of a history that are drawn, by their index, and where on the axis of days they are."""

    history: History
    shown: tuple[int, ...]

    def day(self, index: int) -> float:
        return self.of(self.history.series.points[index].at)

    def of(self, at: datetime) -> float:
        return (at - self.history.series.points[self.shown[0]].at) / _DAY

    @property
    def points(self) -> list[tuple[int, Point]]:
        return [(index, self.history.series.points[index]) for index in self.shown]


def regression_plot(history: History, job: JobResult) -> Plot:
    """Draw a history around the night since when it is worse."""
    bad = _first_bad(history, job)
    points = history.series.points
    first = 0 if bad is None else next((i for i, point in enumerate(points) if point.at >= bad), len(points) - 1)
    return _plot(history, job, min(max(0, first - _BEFORE), max(0, len(points) - FEW)), (10.0, 3.0), bad)


def small_plot(history: History, job: JobResult) -> Plot:
    """Draw the latest nights of a history."""
    return _plot(history, job, max(0, len(history.series.points) - FEW), (4.2, 1.9), None)


def _plot(history: History, job: JobResult, begin: int, size: tuple[float, float], bad: datetime | None) -> Plot:
    metric = history.metric
    title = f"{metric.words} of {shorter(history.job, 60)}{made_of(job)}"
    total = len(history.series.points)
    seen = _Drawn(history, _thinned(begin, total))
    drawn, (axes,) = figure(size[1], width=size[0])
    _draw_points(axes, seen, _names(seen, job))
    level = _draw_levels(axes, seen)
    pinned = _pinned(history, job)
    if pinned is not None:
        axes.axhline(pinned, color=OTHER, linewidth=1.1, linestyle=(0, (5, 2)), label="pinned baseline")
    around = pinned if pinned is not None else level
    room = _room(history, around)
    axes.axhspan(around - room, around + room, color=QUIET, alpha=0.16, linewidth=0)
    spread = job.p50_ms if metric is Metric.P50 else None
    if spread is not None:
        _draw_spread(axes, seen, spread)
    if bad is not None:
        _draw_bad(axes, seen, bad)
    beyond = _limits(axes, seen, [around - room, around + room, *((spread.low, spread.high) if spread else ())])
    _dates(axes, seen)
    axes.set_ylabel(metric.unit, fontsize=9, color=INK)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.03))
    return Plot(title, svg(drawn), _words(seen, pinned is not None, beyond, bad))


def _thinned(begin: int, total: int) -> tuple[int, ...]:
    """Return indices from ``begin`` on; of too many, every so many up to the latest ones, which are all there."""
    latest = max(begin, total - MOST // 2)
    step = -(-(latest - begin) // (MOST // 2)) or 1
    return (*range(begin, latest, step), *range(latest, total))


def _draw_points(axes: Any, seen: _Drawn, names: Mapping[str, str]) -> None:
    """Draw each board's nights in its own colour and shape, and those that are not judged as hollow ones."""
    boards = list(dict.fromkeys(point.board for _, point in seen.points))
    for number, board in enumerate(boards[:_BOARDS]):
        mine = [one for one in seen.points if one[1].board == board]
        if number == _BOARDS - 1:
            mine = [one for one in seen.points if one[1].board in boards[number:]]
        colour = ACCENT if len(boards) == 1 else CYCLE[number % len(CYCLE)]
        style = {"marker": _MARKERS[number], "color": colour, "markersize": 3.6, "linestyle": "none"}
        others = len(boards) - number if number == _BOARDS - 1 else 1
        style["label"] = f"{others} other boards" if others > 1 else in_legend(names.get(board, "a night"), 22)
        good = [(seen.day(index), point.value) for index, point in mine if not point.invalid]
        invalid = [(seen.day(index), point.value) for index, point in mine if point.invalid]
        axes.plot([x for x, _ in good], [y for _, y in good], alpha=0.85, **style)
        if invalid:
            hollow = style | {"markerfacecolor": "white", "label": None, "markersize": 4.2}
            axes.plot([x for x, _ in invalid], [y for _, y in invalid], **hollow)


def _names(seen: _Drawn, job: JobResult) -> dict[str, str]:
    """Return what to call each board: tonight's as the fleet does, others as they were reached."""
    found = {point.board: seen.history.measured[index].board for index, point in seen.points if point.board}
    if job.board is not None and job.board_id in found:
        found[job.board_id] = job.board
    return found


def _draw_levels(axes: Any, seen: _Drawn) -> float:
    """Draw the level before and after each change, or the median of all; return the one that is held to."""
    changes, points = seen.history.changes, seen.history.series.points
    begin, end = seen.day(seen.shown[0]), seen.day(len(points) - 1)
    if not changes:
        judged = [point.value for point in points if not point.invalid] or [point.value for point in points]
        middle = statistics.median(judged)
        axes.plot([begin, end], [middle, middle], color=INK, linewidth=1, linestyle=":", label="median")
        return middle
    edges = [float("-inf"), *(seen.day(change.first) for change in changes), end]
    for number, change in enumerate(changes):
        where = edges[number + 1]
        if where >= begin:
            axes.plot([max(begin, edges[number]), where], [change.before, change.before], color=INK, linewidth=1.2)
        label = "level" if number == len(changes) - 1 else None
        axes.plot(
            [max(begin, where), edges[number + 2]], [change.after, change.after], color=INK, linewidth=1.2, label=label
        )
    held = seen.history.standing
    return held.before if held is not None else changes[-1].after


def _draw_spread(axes: Any, seen: _Drawn, spread: Interval) -> None:
    last = seen.day(len(seen.history.series.points) - 1)
    axes.plot(
        [last, last], [spread.low, spread.high], color=INK, linewidth=1.6, solid_capstyle="butt", label="tonight, 95 %"
    )


def _draw_bad(axes: Any, seen: _Drawn, bad: datetime) -> None:
    x = max(0.0, seen.of(bad))
    axes.axvline(x, color=BAD, linewidth=1.2)
    place: Any = (x, 1.0)
    above: Any = (0, 3)
    axes.annotate(
        f"first bad night {bad:%Y-%m-%d}",
        place,
        above,
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=8,
        color=BAD,
        ha="center",
    )


def _limits(axes: Any, seen: _Drawn, more: Sequence[float]) -> bool:
    """Show all levels and nearly all points; return whether one is so far off that it is a triangle at the edge."""
    values = sorted(point.value for _, point in seen.points)
    low, high = values[len(values) // 20], values[-1 - len(values) // 20]
    levels = [level for change in seen.history.changes for level in (change.before, change.after)]
    kept = [*more, *levels, *(point.value for _, point in seen.points[-3:])]
    low, high = min([low, *kept]), max([high, *kept])
    room = (high - low) / 2 or abs(high) / 20 or 1.0
    inside = [value for value in values if low - room <= value <= high + room]
    low, high = min([low, *inside]), max([high, *inside])
    edge = 0.06 * (high - low or room)
    axes.set_ylim(low - edge, high + edge)
    beyond = [one for one in seen.points if not low <= one[1].value <= high]
    for index, point in beyond:
        at, marker = (high, "^") if point.value > high else (low, "v")
        fill = "white" if point.invalid else INK
        axes.plot([seen.day(index)], [at], marker, color=INK, markerfacecolor=fill, markersize=5, clip_on=False)
    return bool(beyond)


def _dates(axes: Any, seen: _Drawn) -> None:
    begin, end = seen.history.series.points[seen.shown[0]].at, seen.history.series.points[-1].at
    span = seen.of(end)
    if 0 < span < 1:  # somebody tries it out
        ticks, words, room = [begin + n / 4 * (end - begin) for n in range(5)], "%H:%M", 0.03 * span
    else:
        days = max(1, (end.date() - begin.date()).days)
        step = max(1, -(-days // _TICKS))
        ticks = [end - n * step * _DAY for n in range(days // step + 1)]
        words, room = "%b %d" if days < 300 else "%Y-%m", max(0.5, 0.02 * span)
    axes.set_xticks([seen.of(tick) for tick in ticks], [f"{tick:{words}}" for tick in ticks])
    axes.set_xlim(-room, span + room)


def _first_bad(history: History, job: JobResult) -> datetime | None:
    """Return since which night it is bad: as the history says, else as the nights before were judged."""
    since = {f.against: f.since for f in job.regressions if f.metric is history.metric and f.since is not None}
    at = since.get(Against.HISTORY, since.get(Against.BASELINE))
    found = datetime.fromisoformat(at) if at is not None else None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def _pinned(history: History, job: JobResult) -> float | None:
    """Return the baseline's level."""
    return next((f.before for f in _against_baseline(job) if f.metric is history.metric and f.before is not None), None)


def _against_baseline(job: JobResult) -> list[Finding]:
    return [finding for finding in job.findings if finding.against is Against.BASELINE]


def _room(history: History, level: float) -> float:
    """Return how far from a level a value may be before anybody cares."""
    at_least = history.series.at_least
    return at_least if history.metric is Metric.TOP1 else abs(level) * at_least / 100


def _words(seen: _Drawn, pinned: bool, beyond: bool, bad: datetime | None) -> str:
    total, shown = len(seen.history.series.points), len(seen.shown)
    told = []
    if shown < total:
        which = "the latest" if len(set(_steps(seen))) == 1 else "of the older ones only some"
        told.append(f"{shown} of {total} nights are drawn: {which}.")
    unit = seen.history.metric.change_unit
    around = "the pinned baseline" if pinned else "the level"
    told.append(f"Grey: {seen.history.series.at_least:g} {unit} around {around}, nobody's concern.")
    if any(point.invalid for _, point in seen.points):
        told.append("Hollow: invalid by the board's conditions, not judged.")
    if beyond:
        told.append("A triangle at the edge: a night far beyond it.")
    if seen.history.changes:
        told.append("Levels have the boards' offsets, temperature and drift taken out.")
    if bad is not None and bad < seen.history.series.points[seen.shown[0]].at:
        told.append(f"It is bad since {clock(bad.isoformat())} UTC, before what is drawn.")
    return " ".join(told)


def _steps(seen: _Drawn) -> list[int]:
    return [later - earlier for earlier, later in zip(seen.shown, seen.shown[1:], strict=False)]
