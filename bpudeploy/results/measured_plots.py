"""Plots of one measurement: how its latencies lie, how they went over time, how warm it was, where the time goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bpudeploy.results.drawing import ACCENT, BAD, CYCLE, INK, OTHER, QUIET, Plot, figure, in_legend, rows, shorter, svg
from bpudeploy.results.measurement import Interval, Latency, LayerCost, Measurement, Percentile, Round

_MOST_DOTS = 2000
"""More of them make a page of megabytes, and lie on each other."""
_TURNS = (ACCENT, "#7dd3fc")
_WHERE = {"bpu": ACCENT, "cpu": OTHER, "runtime": QUIET}
_STYLES = ("-", "--", ":", "-.")


def stated(latency: Latency) -> list[tuple[str, Interval | Percentile]]:
    """Return the percentiles that are known, with their names."""
    named: tuple[tuple[str, Interval | Percentile | None], ...]
    named = (("p50", latency.p50_ms), ("p90", latency.p90_ms), ("p99", latency.p99_ms))
    return [(name, value) for name, value in named if value is not None]


def latency_histogram(m: Measurement) -> Plot:
    """Draw how many frames took how long."""
    title = "Latency"
    samples = m.samples_ms
    if m.latency is None or not samples:
        return Plot(title, None, _nothing_timed(m))
    drawn, (axes,) = figure(2.6)
    marks = stated(m.latency)
    most = max(m.latency.p50_ms.value * 1.02, 1.15 * _quantile(samples, 0.995), *(v.value for _, v in marks))
    beyond = sum(ms > most for ms in samples)
    axes.hist([ms for ms in samples if ms <= most], bins=60, color=ACCENT, alpha=0.75)
    for row, (name, value) in enumerate(marks):  # one below the other: they may stand close
        axes.axvline(value.value, color=INK, linewidth=1, linestyle=":")
        below = (3, -8 - 11 * row)
        text = f"{name} {value.value:.4g}"
        place: Any = (value.value, 1)
        axes.annotate(text, place, below, xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9)
    axes.set_xlabel(_unit(m))
    axes.set_ylabel(_counted(m))
    words = f"{beyond} of {len(samples)} are slower than {most:.4g} ms, and not drawn." if beyond else ""
    return Plot(title, svg(drawn), words)


def latency_over_time(m: Measurement) -> Plot:
    """Draw each sample where it was in the session, the rounds in two colours by turns."""
    title = "Latency over the session"
    timed = [one for one in m.rounds if one.samples_ms]
    if m.latency is None or not timed:
        return Plot(title, None, _nothing_timed(m))
    drawn, (axes,) = figure(2.6)
    keep = max(2, _MOST_DOTS // len(timed))
    for i, one in enumerate(sorted(timed, key=lambda r: r.started_s)):
        at = list(_moments(one))
        shown = _thinned(at, keep)
        axes.plot(*zip(*shown, strict=True), ".", color=_TURNS[i % 2], markersize=3)
        if one.caveats:
            axes.axvspan(one.started_s, at[-1][0], color=BAD, alpha=0.12, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the session began")
    axes.set_ylabel(_unit(m))
    return Plot(title, svg(drawn), " ".join(_about_dots(timed, keep)))


def _about_dots(timed: Sequence[Round], keep: int) -> Iterator[str]:
    yield "The colour changes with each round."
    marked = sorted({caveat for one in timed for caveat in one.caveats})
    if marked:
        count = sum(bool(one.caveats) for one in timed)
        yield f"In red: {count} of {len(timed)} rounds with a caveat ({', '.join(marked)})."
    if any(len(one.samples_ms) > keep for one in timed):
        yield "Of many frames in a row, only the fastest and the slowest are drawn."


def _moments(one: Round) -> Iterator[tuple[float, float]]:
    """Yield when each sample of a round ended, and what it took."""
    at = one.started_s
    for ms in one.samples_ms:
        at += ms * one.per_sample / 1000
        yield at, ms


def _thinned(points: Sequence[tuple[float, float]], keep: int) -> list[tuple[float, float]]:
    """Return about ``keep`` of the points: of each stretch the lowest and the highest."""
    if len(points) <= keep:
        return list(points)
    length = -(-2 * len(points) // keep)
    found = []
    for first in range(0, len(points), length):
        stretch = points[first : first + length]
        found += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return found


def temperatures(m: Measurement) -> Plot:
    """Draw every sensor over the session, and below it the clocks as shares of their maximum."""
    title = "Temperatures and clocks over the session"
    heat = _series([(one.at_s, one.temperatures_c) for one in m.conditions])
    clocks = _series(
        [(c.at_s, {n: 100 * k.cur / k.max for n, k in c.clocks_hz.items() if k.max > 0}) for c in m.conditions]
    )
    if not m.conditions:
        return Plot(title, None, "Nothing was read while it was measured.")
    if not heat and not clocks:
        return Plot(title, None, "No sensor on this board tells a temperature or a clock.")
    missing = [
        words
        for words, found in (
            ("no temperature sensor on this board", heat),
            ("no clock on this board can be read", clocks),
        )
        if not found
    ]
    panels = [(found, label) for found, label in ((heat, "°C"), (clocks, "clock, % of max.")) if found]
    drawn, every = figure(0.4 + 1.9 * len(panels), len(panels))
    for axes, (found, label) in zip(every, panels, strict=True):
        _draw_series(axes, found)
        axes.set_ylabel(label)
        if found is clocks:
            axes.set_ylim(0, 108)
        for one in m.rounds:
            if one.caveats and one.samples_ms:
                axes.axvspan(one.started_s, list(_moments(one))[-1][0], color=BAD, alpha=0.12, linewidth=0)
    every[-1].set_xlabel("seconds since the session began")
    words = "; ".join(missing)
    return Plot(title, svg(drawn), f"{words[0].upper()}{words[1:]}." if words else "")


def _draw_series(axes: Any, found: dict[str, list[tuple[float, float]]]) -> None:
    for i, (name, points) in enumerate(sorted(found.items())):
        style = _STYLES[i // len(CYCLE) % len(_STYLES)]
        at, values = zip(*_thinned(points, _MOST_DOTS // len(found)), strict=True)
        axes.plot(at, values, style, color=CYCLE[i % len(CYCLE)], linewidth=1.4, label=in_legend(name, 24))
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.05))


def _series(read: Sequence[tuple[float, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return what each sensor said over time, the earliest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for at, values in sorted(read, key=lambda one: one[0]):
        for name, value in values.items():
            found.setdefault(name, []).append((at, value))
    return found


def layer_costs(m: Measurement, top: int = 20) -> Plot:
    """Draw what the dearest parts of the network take, as the runtime's profiler says."""
    title = "Where a frame's time goes, by layer"
    if not m.layers:
        return Plot(title, None, "The runtime on this board told no time of single layers.")
    dearest = sorted(m.layers, key=lambda layer: -layer.ms)[:top]
    rest = len(m.layers) - len(dearest)
    drawn, (axes,) = figure(0.9 + 0.21 * len(dearest))
    for where in dict.fromkeys((*_WHERE, *sorted({layer.where for layer in dearest}))):
        mine = [(y, layer.ms) for y, layer in enumerate(reversed(dearest)) if layer.where == where]
        if mine:
            at, ms = zip(*mine, strict=True)
            axes.barh(at, ms, color=_WHERE.get(where, INK), label=in_legend(where, 24))
    rows(axes, [_named(layer) for layer in reversed(dearest)])
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_xlabel("ms a frame, as the runtime's profiler says")
    total = sum(layer.ms for layer in m.layers)
    left = total - sum(layer.ms for layer in dearest)
    words = f"{rest} more, together {left:.3g} of {total:.3g} ms, are not drawn." if rest else ""
    return Plot(title, svg(drawn), words)


def _named(layer: LayerCost) -> str:
    return shorter(layer.name if layer.op is None or layer.op in layer.name else f"{layer.name} ({layer.op})", 34)


def _nothing_timed(m: Measurement) -> str:
    return "No latency was measured." if m.latency is None else "The single frames' times are not here."


def _unit(m: Measurement) -> str:
    return "ms a frame" if m.batch == 1 else f"ms a frame of {m.batch} images"


def _counted(m: Measurement) -> str:
    return "means of frames" if any(one.per_sample > 1 for one in m.rounds) else "frames"


def _quantile(samples: Sequence[float], q: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(q * len(samples)))]
