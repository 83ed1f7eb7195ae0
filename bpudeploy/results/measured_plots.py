"""Plots of one measurement: latency histogram, latency over time, temperatures and clocks, time per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

from bpudeploy.results.drawing import (
    ACCENT,
    BAD,
    CYCLE,
    INK,
    OTHER,
    QUIET,
    Plot,
    figure,
    in_legend,
    label_rows,
    shorter,
    svg,
)
from bpudeploy.results.measurement import Interval, Latency, LayerCost, Measurement, Percentile, Round

_MAX_POINTS = 2000
"""More would make a page of megabytes, and overlap."""
_ALTERNATING = (ACCENT, "#7dd3fc")
_WHERE = {"bpu": ACCENT, "cpu": OTHER, "runtime": QUIET}
_STYLES = ("-", "--", ":", "-.")


def percentiles_of(latency: Latency) -> list[tuple[str, Interval | Percentile]]:
    """Return the known percentiles with their names."""
    every = {"p50": latency.p50_ms, "p90": latency.p90_ms, "p99": latency.p99_ms}
    return [(name, value) for name, value in every.items() if value is not None]


def latency_histogram(m: Measurement) -> Plot:
    """Draw the histogram of frame latencies."""
    import numpy as np

    title = "Latency"
    samples = m.samples_ms
    if m.latency is None or not samples:
        return Plot(title, None, _no_frames(m))
    drawn, (axes,) = figure(2.6)
    marks = percentiles_of(m.latency)
    slow = float(np.quantile(samples, 0.995, method="higher"))
    most = max(m.latency.p50_ms.value * 1.02, 1.15 * slow, *(v.value for _, v in marks))
    beyond = sum(ms > most for ms in samples)
    axes.hist([ms for ms in samples if ms <= most], bins=60, color=ACCENT, alpha=0.75)
    for row, (name, value) in enumerate(marks):  # staggered, as they may be close
        axes.axvline(value.value, color=INK, linewidth=1, linestyle=":")
        below = (3, -8 - 11 * row)
        text = f"{name} {value.value:.4g}"
        place: Any = (value.value, 1)
        axes.annotate(text, place, below, xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9)
    axes.set_xlabel(_unit(m))
    axes.set_ylabel("means of frames" if any(one.per_sample > 1 for one in m.rounds) else "frames")
    note = f"{beyond} of {len(samples)} are slower than {most:.4g} ms, and not drawn." if beyond else ""
    return Plot(title, svg(drawn), note)


def latency_over_time(m: Measurement) -> Plot:
    """Draw each sample over the time of the session, rounds in alternating colours."""
    title = "Latency over the session"
    timed = [one for one in m.rounds if one.samples_ms]
    if m.latency is None or not timed:
        return Plot(title, None, _no_frames(m))
    drawn, (axes,) = figure(2.6)
    keep = max(2, _MAX_POINTS // len(timed))
    for i, one in enumerate(sorted(timed, key=lambda r: r.started_s)):
        axes.plot(*zip(*_thinned(_over_time(one), keep), strict=True), ".", color=_ALTERNATING[i % 2], markersize=3)
        _mark_caveats(axes, one)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the session began")
    axes.set_ylabel(_unit(m))
    return Plot(title, svg(drawn), " ".join(_notes(timed, keep)))


def _notes(timed: Sequence[Round], keep: int) -> Iterator[str]:
    yield "Colours alternate between rounds."
    marked = sorted({caveat for one in timed for caveat in one.caveats})
    if marked:
        count = sum(bool(one.caveats) for one in timed)
        yield f"Red: {count} of {len(timed)} rounds with a caveat ({', '.join(marked)})."
    if any(len(one.samples_ms) > keep for one in timed):
        yield "Of consecutive frames, only the fastest and the slowest are drawn."


def _over_time(one: Round) -> list[tuple[float, float]]:
    """Return the end time and the latency of each sample of a round."""
    ends = accumulate((ms * one.per_sample / 1000 for ms in one.samples_ms), initial=one.started_s)
    return list(zip(islice(ends, 1, None), one.samples_ms, strict=True))


def _mark_caveats(axes: Any, one: Round) -> None:
    if one.caveats and one.samples_ms:
        axes.axvspan(one.started_s, _over_time(one)[-1][0], color=BAD, alpha=0.12, linewidth=0)


def _thinned(points: Sequence[tuple[float, float]], keep: int) -> list[tuple[float, float]]:
    """Return about ``keep`` points: the lowest and the highest of each run of points."""
    if len(points) <= keep:
        return list(points)
    length = -(-2 * len(points) // keep)
    found = []
    for first in range(0, len(points), length):
        run = points[first : first + length]
        found += sorted({min(run, key=lambda p: p[1]), max(run, key=lambda p: p[1])})
    return found


def temperatures(m: Measurement) -> Plot:
    """Draw the temperature sensors over the session, and below them the clocks relative to their maximum."""
    title = "Temperatures and clocks over the session"
    temperature = _series([(one.at_s, one.temperatures_c) for one in m.conditions])
    clocks = _series(
        [(c.at_s, {n: 100 * k.cur / k.max for n, k in c.clocks_hz.items() if k.max > 0}) for c in m.conditions]
    )
    if not m.conditions:
        return Plot(title, None, "No sensor was read during the measurement.")
    if not temperature and not clocks:
        return Plot(title, None, "This board has no sensor for temperatures or clocks.")
    note = "" if clocks else "No clock on this board can be read."
    note = note if temperature else "This board has no temperature sensor."
    panels = [(found, label) for found, label in ((temperature, "°C"), (clocks, "clock, % of max.")) if found]
    drawn, every = figure(0.4 + 1.9 * len(panels), len(panels))
    for axes, (found, label) in zip(every, panels, strict=True):
        _draw_series(axes, found)
        axes.set_ylabel(label)
        if found is clocks:
            axes.set_ylim(0, 108)
        for one in m.rounds:
            _mark_caveats(axes, one)
    every[-1].set_xlabel("seconds since the session began")
    return Plot(title, svg(drawn), note)


def _draw_series(axes: Any, found: dict[str, list[tuple[float, float]]]) -> None:
    for i, (name, points) in enumerate(sorted(found.items())):
        style = _STYLES[i // len(CYCLE) % len(_STYLES)]
        at, values = zip(*_thinned(points, _MAX_POINTS // len(found)), strict=True)
        axes.plot(at, values, style, color=CYCLE[i % len(CYCLE)], linewidth=1.4, label=in_legend(name, 24))
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.05))


def _series(read: Sequence[tuple[float, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return the values of each sensor over time, earliest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for at, values in sorted(read, key=lambda one: one[0]):
        for name, value in values.items():
            found.setdefault(name, []).append((at, value))
    return found


def layer_costs(m: Measurement, top: int = 20) -> Plot:
    """Draw the most expensive layers, according to the runtime's profiler."""
    title = "Where a frame's time goes, by layer"
    if not m.layers:
        return Plot(title, None, "The runtime on this board does not report the time of layers.")
    ordered = sorted(m.layers, key=lambda layer: -layer.ms)
    shown, rest = ordered[:top], ordered[top:]
    drawn, (axes,) = figure(0.9 + 0.21 * len(shown))
    for where in dict.fromkeys((*_WHERE, *sorted({layer.where for layer in shown}))):
        bars = [(y, layer.ms) for y, layer in enumerate(reversed(shown)) if layer.where == where]
        if bars:
            axes.barh(*zip(*bars, strict=True), color=_WHERE.get(where, INK), label=in_legend(where, 24))
    label_rows(axes, [_layer_name(layer) for layer in reversed(shown)])
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_xlabel("ms per frame, from the runtime's profiler")
    hidden, total = (sum(layer.ms for layer in some) for some in (rest, ordered))
    note = f"{len(rest)} more, together {hidden:.3g} of {total:.3g} ms, are not drawn." if rest else ""
    return Plot(title, svg(drawn), note)


def _layer_name(layer: LayerCost) -> str:
    return shorter(layer.name if layer.op is None or layer.op in layer.name else f"{layer.name} ({layer.op})", 34)


def _no_frames(m: Measurement) -> str:
    return "No latency was measured." if m.latency is None else "The times of single frames are not available."


def _unit(m: Measurement) -> str:
    return "ms per frame" if m.batch == 1 else f"ms per frame of {m.batch} images"
