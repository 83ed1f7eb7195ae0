"""Plots of many measurements: latency distributions, and accuracy against latency with Pareto fronts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bpudeploy.digest import short
from bpudeploy.provenance import Provenance
from bpudeploy.results.drawing import ACCENT, BAD, CYCLE, INK, OTHER, Plot, figure, in_legend, label_rows, shorter, svg
from bpudeploy.results.measured_plots import percentiles_of
from bpudeploy.results.measurement import Interval, Latency, Measurement

MAX_SHOWN = 40
"""Measurements per plot."""
_BINS = 48
_LABEL = 0.17, 0.035
"""Width and height of a point's label, relative to the axes."""
_LOG_RATIO = 4.0
"""Maximum over minimum from which the latency axis is logarithmic."""
T = TypeVar("T")


def measured_latency(m: Measurement) -> Latency | None:
    """Return the latency on a board; None for a simulator."""
    return m.latency if m.provenance is Provenance.MEASURED else None


def first_per_key(measurements: Sequence[Measurement], key: Callable[[Measurement], object]) -> list[Measurement]:
    """Return the first measurement of each ``key``, in the given order."""
    found: dict[object, Measurement] = {}
    for m in measurements:
        found.setdefault(key(m), m)
    return list(found.values())


def board_key(m: Measurement) -> tuple[str, str]:
    """Return what identifies a board and the processor used on it, its BPU or CPU."""
    return m.board_id, m.device


def newest(found: Sequence[T], what: str) -> tuple[Sequence[T], str]:
    """Return the first ``MAX_SHOWN``, and a note if there are more."""
    note = f"The newest {MAX_SHOWN} of {len(found)} {what}." if len(found) > MAX_SHOWN else ""
    return found[:MAX_SHOWN], note


def _label(m: Measurement) -> str:
    batch = f", {m.batch} at once" if m.batch > 1 else ""
    return f"{shorter(m.subject.recipe, 24)}{batch} · {short(m.subject.release)[:7]} · {m.made[5:16].replace('T', ' ')}"


def distributions(measurements: Sequence[Measurement]) -> list[Plot]:
    """Draw one figure per board with a violin per measurement; predictions are intervals in figures of their own.

    Args:
        measurements: newest first. Simulated ones have no latency, and are not drawn.
    """
    groups: dict[object, list[Measurement]] = {}
    for m in with_latency(measurements):
        groups.setdefault((m.provenance, *board_key(m)), []).append(m)
    order = sorted(groups.values(), key=lambda group: group[0].provenance is Provenance.PREDICTED)
    return [(_violins if group[0].provenance is Provenance.MEASURED else _predictions)(group) for group in order]


def with_latency(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return those with a latency of a board, measured or predicted."""
    return [m for m in measurements if measured_latency(m) is not None or m.predicted_ms is not None]


def _violins(group: Sequence[Measurement]) -> Plot:
    drawn, (axes,) = figure(0.9 + 0.42 * len(group), width=10)
    ends = []
    for y, m in enumerate(reversed(group)):
        ends += _violin(axes, y, m)
    label_rows(axes, [f"{_label(m)}  [{', '.join(m.caveats)}]" if m.caveats else _label(m) for m in reversed(group)])
    for m, label in zip(reversed(group), axes.get_yticklabels(), strict=True):
        label.set_color(BAD if m.caveats else INK)
    _latency_axis(axes, ends)
    axes.set_xlabel("ms per frame: p50 with its interval, ticks at p90 and p99; slowest and fastest 0.5 % cut off")
    bare = any(not m.samples_ms for m in group)
    note = "Rows without a shape have no times of single frames." if bare else ""
    return Plot(f"Latency, measured: {group[0].board}, {group[0].device}", svg(drawn), note)


def _violin(axes: Any, y: int, m: Measurement) -> list[float]:
    """Draw one row, and return the values that the axis must include."""
    import numpy as np

    latency = measured_latency(m)
    assert latency is not None
    ends = [latency.p50_ms.low, latency.p50_ms.high]
    if m.samples_ms:
        samples = np.array(m.samples_ms)
        low, high = np.quantile(samples, 0.005, method="lower"), np.quantile(samples, 0.995, method="higher")
        counts, edges = np.histogram(samples, bins=_BINS, range=(low, high))
        smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
        half = 0.4 * smooth / smooth.max()
        axes.fill_between((edges[1:] + edges[:-1]) / 2, y - half, y + half, color=ACCENT, alpha=0.35, linewidth=0)
        ends += [float(low), float(high)]
    axes.plot([latency.p50_ms.low, latency.p50_ms.high], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt")
    axes.plot([latency.p50_ms.value], [y], "o", color=INK, markersize=4)
    for _, value in percentiles_of(latency)[1:]:
        axes.plot([value.value], [y], "|", color=INK, markersize=9)
        ends.append(value.value)
    return ends


def _predictions(group: Sequence[Measurement]) -> Plot:
    drawn, (axes,) = figure(0.9 + 0.42 * len(group), width=10)
    ends = []
    for y, m in enumerate(reversed(group)):
        assert m.predicted_ms is not None
        value, low, high = m.predicted_ms.value, m.predicted_ms.low, m.predicted_ms.high
        axes.plot([low, high], [y, y], color=OTHER, linewidth=1, linestyle="--", marker="|", markersize=9)
        axes.plot([value], [y], "o", color=OTHER, markerfacecolor="white", markersize=6)
        text: Any = (0, 7)
        axes.annotate("PREDICTED", (value, y), text, textcoords="offset points", ha="center", fontsize=7, color=OTHER)
        ends += [low, value, high]
    label_rows(axes, [_label(m) for m in reversed(group)])
    axes.set_ylim(-0.6, len(group) - 0.2)
    _latency_axis(axes, ends)
    axes.set_xlabel("ms per frame, predicted, not measured")
    return Plot(f"Latency, PREDICTED for {group[0].device} ({group[0].board})", svg(drawn))


def _latency_axis(axes: Any, ends: Sequence[float]) -> None:
    """Set the range of the latency axis, logarithmic if the values differ widely."""
    low, high = min(ends), max(ends)
    if low <= 0 or high < _LOG_RATIO * low:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_xlim(low - margin, high + margin)
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.1, high * 1.1)
    steps = [step * 10.0**power for power in range(-6, 9) for step in (1, 2, 3, 5, 7)]
    ticks = [step for step in steps if low / 1.1 <= step <= high * 1.1]
    if len(ticks) > 10:
        ticks = [step for step in ticks if f"{step:e}"[0] in "125"]
    axes.set_xticks(ticks, [f"{step:g}" for step in ticks])
    axes.minorticks_off()


@dataclass(frozen=True)
class _Point:
    ms: Interval
    top1: Interval
    board: str
    label: str
    measured: bool
    caveats: bool


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points (ms, percent), fastest first, without duplicates.

    >>> pareto([(5, 70), (9, 80), (9, 79), (12, 80)])
    [(5, 70), (9, 80)]
    """
    front: list[tuple[float, float]] = []
    for ms, percent in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or percent > front[-1][1]:
            front.append((ms, percent))
    return front


def accuracy_against_latency(measurements: Sequence[Measurement]) -> Plot:
    """Draw the newest measurement of each release on each board, and each board's Pareto front of measured values.

    The simulated accuracy and the predicted latency of one run are a hollow point, which is never on a front.
    """
    title = "Top-1 on the evaluation set against the latency of a frame"
    points, note = newest(_points(measurements), "releases on a board")
    if not points:
        return Plot(title, None, "No release has both an accuracy and a latency yet.")
    drawn, (axes,) = figure(4.4, width=10)
    for i, board in enumerate(dict.fromkeys(point.board for point in points)):
        _draw_board(axes, [point for point in points if point.board == board], board, CYCLE[i % len(CYCLE)])
    _latency_axis(axes, [end for point in points for end in (point.ms.low, point.ms.high)])
    unlabelled = _label_points(axes, points)
    axes.set_xlabel("p50, ms per frame, or the predicted ms")
    axes.set_ylabel("top-1, %")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    notes = [note, "Bars: 95 % intervals. Lines: Pareto front of the measured values of each board."]
    if any(not point.measured for point in points):
        notes.append("Hollow: latency PREDICTED, accuracy simulated; never on a front.")
    if unlabelled:
        notes.append(f"{unlabelled} points are not labelled for lack of space.")
    if any(point.caveats for point in points):
        notes.append("Crosses: measured with a caveat, see the table.")
    return Plot(title, svg(drawn), " ".join(filter(None, notes)))


def _points(measurements: Sequence[Measurement]) -> list[_Point]:
    simulated = {
        (m.session, m.subject.release): m.score
        for m in reversed(measurements)
        if m.provenance is Provenance.SIMULATED and m.score is not None
    }
    found = []
    for m in first_per_key(measurements, lambda m: (m.subject.release, m.provenance, *board_key(m))):
        latency = measured_latency(m)
        ms, score = (latency.p50_ms, m.score) if latency is not None else (m.predicted_ms, m.score)
        if m.provenance is Provenance.PREDICTED and score is None:
            score = simulated.get((m.session, m.subject.release))
        if ms is None or score is None:
            continue
        measured = m.provenance is Provenance.MEASURED
        board = f"{m.board}, {m.device}" if measured else f"{m.device} (PREDICTED)"
        label = f"{shorter(m.subject.recipe, 20)} {m.subject.release[:7]}"
        found.append(_Point(ms, score.top1, board, label, measured, bool(m.caveats)))
    return found


def _draw_board(axes: Any, points: Sequence[_Point], board: str, colour: str) -> None:
    measured = any(p.measured for p in points)
    axes.plot([], [], "o", color=colour, markerfacecolor=colour if measured else "white", label=in_legend(board, 34))
    front = pareto([(p.ms.value, p.top1.value) for p in points if p.measured])
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=colour, linewidth=1.2, alpha=0.7)
    for p in points:
        axes.errorbar(
            [p.ms.value],
            [p.top1.value],
            xerr=_error_bar(p.ms),
            yerr=_error_bar(p.top1),
            fmt="X" if p.caveats else "o",
            color=colour,
            markerfacecolor=colour if p.measured else "white",
            markersize=7,
            elinewidth=1 if p.measured else 0.7,
            alpha=0.85,
        )


def _label_points(axes: Any, points: Sequence[_Point]) -> int:
    """Label points as space allows, those on a front first; return how many are not labelled."""
    on_front = set()
    for board in {p.board for p in points}:
        mine = [(p.ms.value, p.top1.value) for p in points if p.board == board and p.measured]
        on_front |= {(board, *one) for one in pareto(mine)}
    taken: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: (p.board, p.ms.value, p.top1.value) not in on_front):
        x, y = (axes.transScale + axes.transLimits).transform((p.ms.value, p.top1.value))
        leftwards = x > 1 - _LABEL[0]  # the legend is on the right
        x -= _LABEL[0] * leftwards
        if all(abs(x - other) > _LABEL[0] or abs(y - height) > _LABEL[1] for other, height in taken):
            taken.append((x, y))
            place: Any = (p.ms.value, p.top1.value)
            above: Any = (-5 if leftwards else 5, 5)
            side = "right" if leftwards else "left"
            axes.annotate(p.label, place, above, textcoords="offset points", fontsize=7, color=INK, ha=side)
    return len(points) - len(taken)


def _error_bar(interval: Interval) -> list[list[float]]:
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
