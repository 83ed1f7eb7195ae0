"""The time axis of a timeline: seconds to pixels, with long idle times shortened to a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from bpudeploy.fleet.history import utc

_GAP_WIDTH = 46.0
_LONG = 0.12
"""An idle time longer than this share of all busy times is shortened."""
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_TICK_SPACING = 60.0
_SHORTEST = 1e-3
"""Seconds; shorter spans are invisible, and dividing by them overflows."""


@dataclass(frozen=True)
class Segment:
    """A span of time, and where it is drawn."""

    begin: float
    end: float
    x0: float
    x1: float
    gap: bool


@dataclass(frozen=True)
class Scale:
    """A piecewise linear, monotonic map from seconds to pixels."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, busy: Sequence[tuple[float, float]], begin: float, end: float, x0: float, x1: float) -> Scale:
        """Return the scale from ``begin`` to ``end``, drawn from ``x0`` to ``x1``."""
        end = max(end, begin + _SHORTEST)
        inside = [(max(a, begin), min(b, end)) for a, b in busy]
        merged = _union([(a, b) for a, b in inside if b - a >= _SHORTEST])
        least = max(_LONG * sum(b - a for a, b in merged), 1.0)
        idle = zip([begin, *(b for _, b in merged)], [*(a for a, _ in merged), end], strict=True)
        gaps = {(a, b) for a, b in idle if merged and b - a > least}
        spans = list(pairwise(sorted({begin, end, *chain.from_iterable(gaps)})))
        width = min(_GAP_WIDTH, 0.4 * (x1 - x0) / len(gaps)) if gaps else 0.0
        rest = sum(b - a for a, b in spans if (a, b) not in gaps)
        per_second = (x1 - x0 - len(gaps) * width) / rest if rest else 0.0
        segments, x = list[Segment](), x0
        for a, b in spans:
            gap = (a, b) in gaps
            to = x + (width if gap else (b - a) * per_second)
            segments.append(Segment(a, b, x, to, gap))
            x = to
        return cls(tuple(segments))

    @property
    def gaps(self) -> list[Segment]:
        return [s for s in self.segments if s.gap]

    def x(self, at: float) -> float:
        """Return where a time is drawn; times outside the scale are drawn at its edge."""
        for p in self.segments:
            if at <= p.end:
                x = p.x0 + (p.x1 - p.x0) * max(at - p.begin, 0.0) / (p.end - p.begin)
                return min(x, p.x1)  # rounding may exceed the edge
        return self.segments[-1].x1

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield times and their labels without overlaps; the first label of a day has the date."""
        drawn = [p for p in self.segments if not p.gap]
        pixels = sum(p.x1 - p.x0 for p in drawn)
        seconds = sum(p.end - p.begin for p in drawn)
        step = next((s for s in _STEPS if s * pixels >= _TICK_SPACING * seconds), _STEPS[-1])
        placed = [((p.x0 + p.x1) / 2, 24.0) for p in self.gaps]
        days = len({utc(p.begin).date() for p in self.segments} | {utc(self.segments[-1].end).date()}) > 1
        day = None
        for p in drawn:
            first = -(-p.begin // step) * step
            count = int((p.end - first) // step) + 1 if first <= p.end else 0
            for at in [first + i * step for i in range(count)] or [p.begin]:
                now = utc(at)
                label = now.strftime("%H:%M" if step >= 60 and at % 60 == 0 else "%H:%M:%S")
                if step < 1:
                    label += f".{now.microsecond // 100000}"
                if days and now.date() != day:
                    label = f"{now.day} {now:%b} {label}"
                half, x = 2.6 * len(label) + 3, self.x(at)
                if all(abs(x - other) >= half + room for other, room in placed):
                    placed.append((x, half))
                    day = now.date()
                    yield at, label


def _union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], b))
        else:
            merged.append((a, b))
    return merged
