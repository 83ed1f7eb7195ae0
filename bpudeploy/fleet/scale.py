"""Seconds to pixels of a timeline: a night between two waves takes no more room than it needs to be named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bpudeploy.fleet.chronicle import utc

_CUT = 46.0
_LONG = 0.12
"""A quiet time is cut short when it is longer than this share of the busy ones."""
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_BETWEEN = 60.0
_SHORTEST = 1e-3
"""Seconds: what is shorter is nowhere to be seen, and no number of pixels a second can be reckoned from it."""


@dataclass(frozen=True)
class Piece:
    """A stretch of time, and where it is drawn."""

    begin: float
    end: float
    x0: float
    x1: float
    cut: bool


@dataclass(frozen=True)
class Scale:
    """Piecewise linear and never falling."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, busy: Sequence[tuple[float, float]], begin: float, end: float, x0: float, x1: float) -> Scale:
        """Return the scale from ``begin`` to ``end``, drawn from ``x0`` to ``x1``."""
        end = max(end, begin + _SHORTEST)
        inside = [(max(a, begin), min(b, end)) for a, b in busy]
        merged = _union([(a, b) for a, b in inside if b - a >= _SHORTEST])
        least = max(_LONG * sum(b - a for a, b in merged), 1.0)
        stretches: list[tuple[float, float, bool]] = []
        at = begin
        for a, b in [*merged, (end, end)]:
            cut = bool(merged) and a - at > least
            if cut:
                stretches.append((at, a, True))
                at = a
            if b > at:
                joined = bool(stretches) and not stretches[-1][2]
                since = stretches.pop()[0] if joined else at
                stretches.append((since, b, False))
            at = max(at, b)
        cuts = sum(cut for _, _, cut in stretches)
        wide = min(_CUT, 0.4 * (x1 - x0) / cuts) if cuts else 0.0
        rest = sum(b - a for a, b, cut in stretches if not cut)
        a_second = (x1 - x0 - cuts * wide) / rest if rest else 0.0
        pieces, x = [], x0
        for a, b, cut in stretches:
            to = x + (wide if cut else (b - a) * a_second)
            pieces.append(Piece(a, b, x, to, cut))
            x = to
        return cls(tuple(pieces))

    @property
    def cuts(self) -> list[Piece]:
        return [p for p in self.pieces if p.cut]

    def x(self, at: float) -> float:
        """Return where a time is drawn; one outside is drawn at the edge."""
        for p in self.pieces:
            if at <= p.end:
                x = p.x0 + (p.x1 - p.x0) * max(at - p.begin, 0.0) / (p.end - p.begin)
                return min(x, p.x1)  # rounding may carry it over the edge
        return self.pieces[-1].x1

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield times and their words, with room between them; the day is said with the first one of each."""
        drawn = [p for p in self.pieces if not p.cut]
        pixels = sum(p.x1 - p.x0 for p in drawn)
        seconds = sum(p.end - p.begin for p in drawn)
        step = next((s for s in _STEPS if s * pixels >= _BETWEEN * seconds), _STEPS[-1])
        taken = [((p.x0 + p.x1) / 2, 24.0) for p in self.cuts]
        days = len({utc(p.begin).date() for p in self.pieces} | {utc(self.pieces[-1].end).date()}) > 1
        day = None
        for p in drawn:
            first = -(-p.begin // step) * step
            count = int((p.end - first) // step) + 1 if first <= p.end else 0
            for at in [first + i * step for i in range(count)] or [p.begin]:
                now = utc(at)
                words = now.strftime("%H:%M" if step >= 60 and at % 60 == 0 else "%H:%M:%S")
                if step < 1:
                    words += f".{now.microsecond // 100000}"
                if days and now.date() != day:
                    words = f"{now.day} {now:%b} {words}"
                half, x = 2.6 * len(words) + 3, self.x(at)
                if all(abs(x - other) >= half + room for other, room in taken):
                    taken.append((x, half))
                    day = now.date()
                    yield at, words


def _union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], b))
        else:
            merged.append((a, b))
    return merged
