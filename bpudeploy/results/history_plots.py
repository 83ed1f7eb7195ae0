"""Plots of many measurements: their latencies side by side, and accuracy against latency with its Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bpudeploy.digest import short
from bpudeploy.provenance import Provenance
from bpudeploy.results.drawing import ACCENT, BAD, CYCLE, INK, OTHER, Plot, figure, in_legend, rows, shorter, svg
from bpudeploy.results.measured_plots import stated
from bpudeploy.results.measurement import Interval, Latency, Measurement

NEWEST = 40
"""What a plot shows at most."""
_BINS = 48
_LABEL = 0.17, 0.035
"""Width and height that a point's name takes, of the axes'."""
_LOG_FROM = 4.0
T = TypeVar("T")


def of_board(m: Measurement) -> Latency | None:
    """Return the latency that was measured on a board; what a simulator takes is none."""
    return m.latency if m.provenance is Provenance.MEASURED else None


def newest_of(measurements: Sequence[Measurement], key: Callable[[Measurement], object]) -> list[Measurement]:
    """Return the first measurement of each ``key``, in the order given: newest first."""
    found: dict[object, Measurement] = {}
    for m in measurements:
        found.setdefault(key(m), m)
    return list(found.values())


def board_of(m: Measurement) -> tuple[str, str]:
    """Return what makes two measurements ones of the same board: what a BPU takes is not what its CPU takes."""
    return m.board_id, m.device


def shown_of(found: Sequence[T], what: str) -> tuple[Sequence[T], str]:
    """Return as many as a plot has room for, and words where that is not all."""
    words = f"The newest {NEWEST} of {len(found)} {what}." if len(found) > NEWEST else ""
    return found[:NEWEST], words


def named(m: Measurement) -> str:
    """Return which measurement it is, short enough for a row of a plot."""
    batch = f", {m.batch} at once" if m.batch > 1 else ""
    return f"{shorter(m.subject.recipe, 24)}{batch} · {short(m.subject.release)[:7]} · {m.made[5:16].replace('T', ' ')}"


def distributions(measurements: Sequence[Measurement]) -> list[Plot]:
    """Draw each measurement's latencies as a violin, a figure a board; those that are predicted, as an open interval.

    Args:
        measurements: newest first. A simulated one has no latency, and is not drawn.
    """
    groups: dict[object, list[Measurement]] = {}
    for m in with_latency(measurements):
        groups.setdefault((m.provenance, *board_of(m)), []).append(m)
    order = sorted(groups.values(), key=lambda group: group[0].provenance is Provenance.PREDICTED)
    return [(_violins if group[0].provenance is Provenance.MEASURED else _foretold)(group) for group in order]


def with_latency(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return those that have a board's latency, measured or predicted."""
    return [m for m in measurements if of_board(m) is not None or m.predicted_ms is not None]


def _violins(group: Sequence[Measurement]) -> Plot:
    drawn, (axes,) = figure(0.9 + 0.42 * len(group), width=10)
    ends = []
    for y, m in enumerate(reversed(group)):
        ends += _violin(axes, y, m)
    rows(axes, [_with_caveats(m) for m in reversed(group)])
    for m, label in zip(reversed(group), axes.get_yticklabels(), strict=True):
        label.set_color(BAD if m.caveats else INK)
    _milliseconds(axes, ends)
    axes.set_xlabel(
        "ms a frame: p50 with its interval, ticks at p90 and p99; the slowest and fastest 0.5 % are cut off"
    )
    bare = any(not m.samples_ms for m in group)
    words = "Where there is no shape, the single frames' times are not here." if bare else ""
    return Plot(f"Latency, measured: {group[0].board}, {group[0].device}", svg(drawn), words)


def _with_caveats(m: Measurement) -> str:
    return f"{named(m)}  [{', '.join(m.caveats)}]" if m.caveats else named(m)


def _violin(axes: Any, y: int, m: Measurement) -> list[float]:
    """Draw one row, and return the values that have to be seen."""
    import numpy as np

    latency = of_board(m)
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
    for _, value in stated(latency)[1:]:
        axes.plot([value.value], [y], "|", color=INK, markersize=9)
        ends.append(value.value)
    return ends


def _foretold(group: Sequence[Measurement]) -> Plot:
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
    rows(axes, [named(m) for m in reversed(group)])
    axes.set_ylim(-0.6, len(group) - 0.2)
    _milliseconds(axes, ends)
    axes.set_xlabel("ms a frame, predicted; nothing of it was measured")
    return Plot(f"Latency, PREDICTED for {group[0].device} ({group[0].board})", svg(drawn))


def _milliseconds(axes: Any, ends: Sequence[float]) -> None:
    """Give the axis of latencies its range: in equal factors where they are far from each other."""
    low, high = min(ends), max(ends)
    if low <= 0 or high < _LOG_FROM * low:
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_xlim(low - room, high + room)
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
    """Return the points (ms, percent) that none other beats, the fastest first, each once.

    A point is beaten by another one that is no slower and no less accurate, and better in one of the two.

    >>> pareto([(5, 70), (9, 80), (9, 79), (12, 80)])
    [(5, 70), (9, 80)]
    """
    front: list[tuple[float, float]] = []
    for ms, percent in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or percent > front[-1][1]:
            front.append((ms, percent))
    return front


def accuracy_against_latency(measurements: Sequence[Measurement]) -> Plot:
    """Draw the newest measurement of each release on each board, and each board's Pareto front of what was measured.

    A simulated accuracy and a predicted latency of one run make one hollow point, which is on no front.
    """
    title = "Top-1 on the evaluation set against the latency of a frame"
    points, words = shown_of(_points(measurements), "releases on a board")
    if not points:
        return Plot(title, None, "No release has both an accuracy and a latency yet.")
    drawn, (axes,) = figure(4.4, width=10)
    for i, board in enumerate(dict.fromkeys(point.board for point in points)):
        _draw_board(axes, [point for point in points if point.board == board], board, CYCLE[i % len(CYCLE)])
    _milliseconds(axes, [end for point in points for end in (point.ms.low, point.ms.high)])
    left = _name_points(axes, points)
    axes.set_xlabel("p50, ms a frame, or the predicted ms")
    axes.set_ylabel("top-1, %")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    told = [words, "Bars: 95 % intervals. The line: each board's Pareto front, of what was measured on it."]
    if any(not point.measured for point in points):
        told.append("Hollow: latency PREDICTED, accuracy simulated; never on a front.")
    if left:
        told.append(f"{left} points have no room for their names.")
    if any(point.caveats for point in points):
        told.append("A cross: measured with a caveat; look at the table.")
    return Plot(title, svg(drawn), " ".join(filter(None, told)))


def _points(measurements: Sequence[Measurement]) -> list[_Point]:
    simulated = {
        (m.session, m.subject.release): m.score
        for m in reversed(measurements)
        if m.provenance is Provenance.SIMULATED and m.score is not None
    }
    found = []
    for m in newest_of(measurements, lambda m: (m.subject.release, m.provenance, *board_of(m))):
        latency = of_board(m)
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
            xerr=_around(p.ms),
            yerr=_around(p.top1),
            fmt="X" if p.caveats else "o",
            color=colour,
            markerfacecolor=colour if p.measured else "white",
            markersize=7,
            elinewidth=1 if p.measured else 0.7,
            alpha=0.85,
        )


def _name_points(axes: Any, points: Sequence[_Point]) -> int:
    """Write the names of points where there is room, those on a front first; return how many have none."""
    on_front = set()
    for board in {p.board for p in points}:
        mine = [(p.ms.value, p.top1.value) for p in points if p.board == board and p.measured]
        on_front |= {(board, *one) for one in pareto(mine)}
    taken: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: (p.board, p.ms.value, p.top1.value) not in on_front):
        x, y = (axes.transScale + axes.transLimits).transform((p.ms.value, p.top1.value))
        leftwards = x > 1 - _LABEL[0]  # on the right is the legend
        x -= _LABEL[0] * leftwards
        if all(abs(x - other) > _LABEL[0] or abs(y - height) > _LABEL[1] for other, height in taken):
            taken.append((x, y))
            place: Any = (p.ms.value, p.top1.value)
            above: Any = (-5 if leftwards else 5, 5)
            side = "right" if leftwards else "left"
            axes.annotate(p.label, place, above, textcoords="offset points", fontsize=7, color=INK, ha=side)
    return len(points) - len(taken)


def _around(of: Interval) -> list[list[float]]:
    """Return how far an interval reaches to both sides of its value."""
    return [[max(0.0, of.value - of.low)], [max(0.0, of.high - of.value)]]
