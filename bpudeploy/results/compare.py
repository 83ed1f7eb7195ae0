"""compare: is B faster or slower than A, more or less accurate, or can nobody tell? Pairs, intervals, effect sizes."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from bpudeploy.errors import UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.latency import mean_of
from bpudeploy.results.measurement import Caveat, Interval, Measurement, Round, Throughput
from bpudeploy.results.statistics import paired_drop
from bpudeploy.results.summary import Drop, Verdict

AT_LEAST = 1.0
"""Percent of latency below which a difference is nobody's concern, unless another is asked for."""
_SPOIL = (Caveat.THROTTLED, Caveat.HOT, Caveat.REBOOTED)
"""With these the two did not run under the same conditions, and no verdict is given."""
_MIN_PAIRS = 6
_MIN_SESSIONS = 3
_RESAMPLES = 1000


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Design(StrEnum):
    """How the two were measured."""

    INTERLEAVED = "interleaved"
    """In turns, round by round, in one session on one board: round k of A and of B are a pair."""
    APART = "apart"
    """In sessions of their own, on the same board: what differs between sessions differs between them too."""


class Change(_Value):
    """How a latency of B stands to that of A."""

    what: str
    a_ms: float
    b_ms: float
    percent: float
    """(B / A - 1) in percent; above 0: B is slower."""
    interval: Interval | None
    """The same with its 95 % interval; None where too little was measured for one."""
    verdict: Verdict


class Comparison(_Value):
    """B held against A; nothing in it mixes provenances or boards."""

    a: str
    b: str
    board: str
    provenance: Provenance
    design: Design
    pairs: int
    """Rounds, or where they were measured apart, sessions of the one that has fewer."""
    at_least: float
    """Percent that a change of latency must be for a verdict."""
    latency: tuple[Change, ...]
    superiority: float | None
    """How often a frame of B is faster than one of A (Vargha and Delaney's A; 0.5: no difference)."""
    accuracy: Drop | None
    """Top-1 that B loses against A, on the same images; None where they have none in common."""
    throughput: tuple[Change, ...] = ()
    """Milliseconds an image, 1000 / fps: so that slower is more, as everywhere."""
    because: tuple[str, ...] = ()
    """Why a verdict is withheld, or what to know of it."""

    @property
    def verdict(self) -> Verdict:
        """Worse if anything is worse; better if something is and nothing is worse."""
        told = [change.verdict for change in self.latency[:1]]
        told += [self.accuracy.verdict] if self.accuracy is not None else []
        return next((v for v in (Verdict.WORSE, Verdict.BETTER) if v in told), Verdict.CANNOT_TELL)


def compare(a: Sequence[Measurement], b: Sequence[Measurement], *, at_least: float = AT_LEAST) -> Comparison:
    """Hold B's measurements on a board against A's.

    Measured in one session, round k of B is paired with round k of A: Student's interval of the mean log ratio of
    their medians. Measured apart, the sessions are the sample (Welch's interval over their log medians), and with
    fewer than three of each nobody can tell: two runs of the same release an hour apart differ too. A verdict needs
    an interval that excludes 0 and a change of ``at_least`` percent.

    Args:
        a, b: newest first, at least one each; all of one board and one provenance.

    Raises:
        UsageError: boards or provenances differ: such figures are never compared.
    """
    _same(a, b)
    pair = next(((x, y) for x in a for y in b if x.session == y.session), None)
    if pair is not None:
        return _interleaved(*pair, at_least)
    return _apart(a, b, at_least)


def _same(a: Sequence[Measurement], b: Sequence[Measurement]) -> None:
    provenances = {m.provenance for m in (*a, *b)}
    if len(provenances) > 1:
        raise UsageError(
            f"one is {' and the other '.join(sorted(provenances))}: such figures are never compared",
            hint="measure both on the board",
        )
    boards = {(m.board_id, m.device) for m in (*a, *b)}
    if len(boards) > 1:
        raise UsageError(
            f"they are of different boards: {', '.join(sorted(f'{one} ({device})' for one, device in boards))}",
            hint="`bpudeploy bench A --against B --board ...` measures both on one",
        )


def _interleaved(a: Measurement, b: Measurement, at_least: float) -> Comparison:
    rounds = _pairs(a.rounds, b.rounds)
    because = [f"{name}: {c.meaning}" for name, m in (("A", a), ("B", b)) for c in _SPOIL if c in m.caveats]
    if 0 < len(rounds) < _MIN_PAIRS:
        because.append(f"{len(rounds)} pairs of rounds; {_MIN_PAIRS} are needed")
    changes = [_paired(f"p{q:.0%}"[:-1], rounds, q, at_least, not because) for q in (0.5, 0.9)] if rounds else []
    if len(rounds) >= _MIN_PAIRS and all(one.per_sample == 1 for pair in rounds for one in pair):
        changes.append(_pooled_p99(rounds, at_least, not because))
    return Comparison(
        a=a.subject.release,
        b=b.subject.release,
        board=a.board,
        provenance=a.provenance,
        design=Design.INTERLEAVED,
        pairs=len(rounds),
        at_least=at_least,
        latency=tuple(changes),
        superiority=_superiority(a.samples_ms, b.samples_ms),
        accuracy=_accuracy(a, b),
        throughput=_throughputs(a.throughput, b.throughput, at_least, not because),
        because=tuple(because),
    )


def _pairs(a: Sequence[Round], b: Sequence[Round]) -> list[tuple[Round, Round]]:
    others = {one.index: one for one in b}
    return [(one, others[one.index]) for one in a if one.index in others]


def _paired(what: str, rounds: Sequence[tuple[Round, Round]], q: float, at_least: float, sure: bool) -> Change:
    firsts, seconds = ([_quantile(pair[i].samples_ms, q) for pair in rounds] for i in (0, 1))
    logs = [math.log(y / x) for x, y in zip(firsts, seconds, strict=True)]
    spread = mean_of(logs) if len(logs) > 1 else None
    return _change(what, statistics.median(firsts), statistics.median(seconds), spread, at_least, sure)


def _pooled_p99(rounds: Sequence[tuple[Round, Round]], at_least: float, sure: bool) -> Change:
    """Compare the p99 of all frames, with the percentile interval of 1,000 seeded resamples of the pairs of rounds.

    A round has too few frames for a p99 of its own.
    """
    import numpy as np

    values = [[np.array(pair[i].samples_ms) for pair in rounds] for i in (0, 1)]

    def log_ratio(chosen: Sequence[int]) -> float:
        a, b = (np.quantile(np.concatenate([side[k] for k in chosen]), 0.99) for side in values)
        return float(np.log(b / a))

    rng = np.random.default_rng(0)
    drawn = [log_ratio(list(rng.integers(0, len(rounds), len(rounds)))) for _ in range(_RESAMPLES)]
    low, high = (float(x) for x in np.quantile(drawn, [0.025, 0.975]))
    every = list(range(len(rounds)))
    a, b = (float(np.quantile(np.concatenate(side), 0.99)) for side in values)
    value = log_ratio(every)
    spread = Interval(value=value, low=min(low, value), high=max(high, value))
    return _change("p99", a, b, spread, at_least, sure)


def _change(what: str, a: float, b: float, log_ratio: Interval | None, at_least: float, sure: bool) -> Change:
    if log_ratio is None:
        return Change(what=what, a_ms=a, b_ms=b, percent=100 * (b / a - 1), interval=None, verdict=Verdict.CANNOT_TELL)
    low, value, high = (100 * math.expm1(x) for x in (log_ratio.low, log_ratio.value, log_ratio.high))
    verdict = Verdict.CANNOT_TELL
    if sure and abs(value) >= at_least:
        verdict = Verdict.WORSE if low > 0 else Verdict.BETTER if high < 0 else Verdict.CANNOT_TELL
    held = Interval(value=value, low=low, high=high)
    return Change(what=what, a_ms=a, b_ms=b, percent=value, interval=held, verdict=verdict)


def _quantile(samples: Sequence[float], q: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered), max(1, math.ceil(q * len(ordered)))) - 1]


def _throughputs(a: Sequence[Throughput], b: Sequence[Throughput], at_least: float, sure: bool) -> tuple[Change, ...]:
    others = {one.streams: one for one in b}
    found = []
    for one in a:
        if one.streams not in others:
            continue
        other = others[one.streams]
        logs = [math.log(x / y) for x, y in zip(one.rounds, other.rounds, strict=False)]
        if len(logs) > 1:
            a_ms, b_ms = 1000 / one.fps.value, 1000 / other.fps.value
            enough = sure and len(logs) >= _MIN_PAIRS
            found.append(_change(f"{one.streams} streams", a_ms, b_ms, mean_of(logs), at_least, enough))
    return tuple(found)


def _superiority(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the share of pairs (frame of A, frame of B) in which B's is faster; a tie counts half."""
    if not a or not b:
        return None
    ordered = sorted(a)
    faster = sum(len(ordered) - (bisect.bisect_left(ordered, y) + bisect.bisect_right(ordered, y)) / 2 for y in b)
    return faster / (len(a) * len(b))


def _accuracy(a: Measurement, b: Measurement) -> Drop | None:
    if a.answers is None or b.answers is None or a.answers.samples != b.answers.samples:
        return None
    return paired_drop(a.answers.right, b.answers.right)


def _apart(a: Sequence[Measurement], b: Sequence[Measurement], at_least: float) -> Comparison:
    firsts, seconds = ([m.latency.p50_ms.value for m in ms if m.latency is not None] for ms in (a, b))
    fewer = min(len(firsts), len(seconds))
    because = [f"measured apart, {len(firsts)} and {len(seconds)} sessions: rounds in turns tell more"]
    if fewer < _MIN_SESSIONS:
        because.append(f"{_MIN_SESSIONS} sessions of each are needed, or one of both: `bench A --against B`")
    spoilt = {c.meaning for m in (*a, *b) for c in _SPOIL if c in m.caveats}
    because += sorted(spoilt)
    sure = fewer >= _MIN_SESSIONS and not spoilt
    changes: tuple[Change, ...] = ()
    if firsts and seconds:
        spread = _welch([math.log(x) for x in firsts], [math.log(y) for y in seconds])
        middles = statistics.median(firsts), statistics.median(seconds)
        changes = (_change("p50", *middles, spread, at_least, sure),)
    return Comparison(
        a=a[0].subject.release,
        b=b[0].subject.release,
        board=a[0].board,
        provenance=a[0].provenance,
        design=Design.APART,
        pairs=fewer,
        at_least=at_least,
        latency=changes,
        superiority=None,
        accuracy=_accuracy(a[0], b[0]),
        because=tuple(because),
    )


def _welch(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Return mean(y) - mean(x) with Welch's 95 % interval; None where there are fewer than two of one."""
    from scipy.special import stdtrit

    if min(len(x), len(y)) < 2:
        return None
    value = statistics.fmean(y) - statistics.fmean(x)
    u, v = statistics.variance(x) / len(x), statistics.variance(y) / len(y)
    if u + v == 0:
        return Interval(value=value, low=value, high=value)
    degrees = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    half = float(stdtrit(degrees, 0.975)) * math.sqrt(u + v)
    return Interval(value=value, low=value - half, high=value + half)
