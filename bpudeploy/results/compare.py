"""Compare two releases: is B faster or slower than A, more or less accurate, or is the data insufficient?"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from enum import StrEnum

from bpudeploy.errors import UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.latency import mean_of, quantile
from bpudeploy.results.measurement import FrozenModel, Interval, Measurement, Round, Throughput
from bpudeploy.results.statistics import paired_drop
from bpudeploy.results.summary import AccuracyDrop, Verdict

AT_LEAST = 1.0
"""Default threshold for a change of latency, in percent."""
_MIN_PAIRS = 6
_MIN_SESSIONS = 3
_RESAMPLES = 1000


class Design(StrEnum):
    """How A and B were measured."""

    INTERLEAVED = "interleaved"
    """In one session on one board; rounds of the same index are pairs."""
    APART = "apart"
    """In separate sessions on the same board: differences between sessions are part of the difference."""


class LatencyChange(FrozenModel):
    """The change of one latency from A to B."""

    what: str
    a_ms: float
    b_ms: float
    percent: float
    """100 (B / A - 1); positive: B is slower."""
    interval: Interval | None
    """``percent`` with its 95 % interval; None if there is too little data."""
    verdict: Verdict


class Comparison(FrozenModel):
    """B compared with A: same board, same provenance."""

    a: str
    b: str
    board: str
    provenance: Provenance
    design: Design
    pairs: int
    """Pairs of rounds; for separate sessions, the smaller number of sessions."""
    at_least: float
    """Smallest change of latency for a verdict, in percent."""
    latency: tuple[LatencyChange, ...]
    superiority: float | None
    """Probability that a frame of B is faster than one of A (Vargha and Delaney's A; 0.5: no difference)."""
    accuracy: AccuracyDrop | None
    """From A to B on the same images; None if they were not evaluated on the same ones."""
    throughput: tuple[LatencyChange, ...] = ()
    """In milliseconds per image (1000 / fps), so that positive is slower here too."""
    because: tuple[str, ...] = ()
    """Why there is no verdict, or what limits it."""

    @property
    def verdict(self) -> Verdict:
        """Worse if p50 or top-1 is worse; better if one is better and neither is worse."""
        verdicts = [change.verdict for change in self.latency[:1]]
        verdicts += [self.accuracy.verdict] if self.accuracy is not None else []
        return next((v for v in (Verdict.WORSE, Verdict.BETTER) if v in verdicts), Verdict.CANNOT_TELL)


def compare(a: Sequence[Measurement], b: Sequence[Measurement], *, at_least: float = AT_LEAST) -> Comparison:
    """Compare B's measurements on a board with A's.

    Measured in one session, round k of B is paired with round k of A: Student's interval of the mean log ratio of
    their medians. Measured in separate sessions, the sessions are the sample (Welch's interval of their log medians),
    and at least three of each are required, as runs of the same release differ too. A verdict needs an interval that
    excludes 0 and a change of at least ``at_least`` percent.

    Args:
        a, b: newest first, at least one each; all of one board and one provenance.

    Raises:
        UsageError: boards or provenances differ.
    """
    _check_comparable(a, b)
    pair = next(((x, y) for x in a for y in b if x.session == y.session), None)
    if pair is not None:
        return _interleaved(*pair, at_least)
    return _separate(a, b, at_least)


def _check_comparable(a: Sequence[Measurement], b: Sequence[Measurement]) -> None:
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
    others = {one.index: one for one in b.rounds}
    rounds = [(one, others[one.index]) for one in a.rounds if one.index in others]
    because = [f"{name}: {c.meaning}" for name, m in (("A", a), ("B", b)) for c in m.invalidating]
    if 0 < len(rounds) < _MIN_PAIRS:
        because.append(f"{len(rounds)} pairs of rounds; at least {_MIN_PAIRS} are required")
    needed = math.inf if because else at_least
    changes = [_paired(name, rounds, q, needed) for name, q in (("p50", 0.5), ("p90", 0.9))] if rounds else []
    if len(rounds) >= _MIN_PAIRS and all(one.per_sample == 1 for pair in rounds for one in pair):
        changes.append(_pooled_p99(rounds, needed))
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
        throughput=_throughputs(a.throughput, b.throughput, needed),
        because=tuple(because),
    )


def _paired(name: str, rounds: Sequence[tuple[Round, Round]], q: float, needed: float) -> LatencyChange:
    a, b = ([quantile(pair[i].samples_ms, q) for pair in rounds] for i in (0, 1))
    log_ratios = [math.log(y / x) for x, y in zip(a, b, strict=True)]
    spread = mean_of(log_ratios) if len(log_ratios) > 1 else None
    return _change(name, statistics.median(a), statistics.median(b), spread, needed)


def _pooled_p99(rounds: Sequence[tuple[Round, Round]], needed: float) -> LatencyChange:
    """Compare the p99 of all frames, with the percentile bootstrap interval over 1,000 resamples of pairs of rounds.

    A single round has too few frames for a p99.
    """
    import numpy as np
    from scipy.stats import bootstrap

    values = [[np.array(pair[i].samples_ms) for pair in rounds] for i in (0, 1)]

    def p99(chosen: Sequence[int]) -> tuple[float, float]:
        a, b = (float(np.quantile(np.concatenate([side[k] for k in chosen]), 0.99)) for side in values)
        return a, b

    def log_ratio(chosen: Sequence[int]) -> float:
        a, b = p99(chosen)
        return math.log(b / a)

    every, seeded = range(len(rounds)), np.random.default_rng(0)
    bounds = bootstrap(
        (every,), log_ratio, n_resamples=_RESAMPLES, vectorized=False, method="percentile", random_state=seeded
    ).confidence_interval
    (a, b), value = p99(every), log_ratio(every)
    spread = Interval(value=value, low=min(float(bounds.low), value), high=max(float(bounds.high), value))
    return _change("p99", a, b, spread, needed)


def _change(name: str, a: float, b: float, log_ratio: Interval | None, needed: float) -> LatencyChange:
    """Return a change; it has a verdict from ``needed`` percent on, so never if that is infinite."""
    verdict = Verdict.CANNOT_TELL
    if log_ratio is None:
        return LatencyChange(what=name, a_ms=a, b_ms=b, percent=100 * (b / a - 1), interval=None, verdict=verdict)
    low, value, high = (100 * math.expm1(x) for x in (log_ratio.low, log_ratio.value, log_ratio.high))
    if abs(value) >= needed:
        verdict = Verdict.WORSE if low > 0 else Verdict.BETTER if high < 0 else Verdict.CANNOT_TELL
    interval = Interval(value=value, low=low, high=high)
    return LatencyChange(what=name, a_ms=a, b_ms=b, percent=value, interval=interval, verdict=verdict)


def _throughputs(a: Sequence[Throughput], b: Sequence[Throughput], needed: float) -> tuple[LatencyChange, ...]:
    others = {one.streams: one for one in b}
    changes = []
    for one, other in ((one, others[one.streams]) for one in a if one.streams in others):
        log_ratios = [math.log(x / y) for x, y in zip(one.rounds, other.rounds, strict=False)]
        if len(log_ratios) > 1:
            name, a_ms, b_ms = f"{one.streams} streams", 1000 / one.fps.value, 1000 / other.fps.value
            enough = len(log_ratios) >= _MIN_PAIRS
            changes.append(_change(name, a_ms, b_ms, mean_of(log_ratios), needed if enough else math.inf))
    return tuple(changes)


def _superiority(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the share of pairs (frame of A, frame of B) in which B's is faster; a tie counts half."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(a, b, method="asymptotic").statistic) / (len(a) * len(b)) if a and b else None


def _accuracy(a: Measurement, b: Measurement) -> AccuracyDrop | None:
    if a.answers is None or b.answers is None or a.answers.samples != b.answers.samples:
        return None
    return paired_drop(a.answers.right, b.answers.right)


def _separate(a: Sequence[Measurement], b: Sequence[Measurement], at_least: float) -> Comparison:
    a_ms, b_ms = ([m.latency.p50_ms.value for m in ms if m.latency is not None] for ms in (a, b))
    fewer = min(len(a_ms), len(b_ms))
    because = [f"measured apart in {len(a_ms)} and {len(b_ms)} sessions: interleaved rounds detect smaller changes"]
    if fewer < _MIN_SESSIONS:
        because.append(f"at least {_MIN_SESSIONS} sessions of each are required, or one of both: `bench A --against B`")
    invalid = sorted({c.meaning for m in (*a, *b) for c in m.invalidating})
    changes: tuple[LatencyChange, ...] = ()
    if a_ms and b_ms:
        spread = _welch([math.log(x) for x in a_ms], [math.log(y) for y in b_ms])
        needed = at_least if fewer >= _MIN_SESSIONS and not invalid else math.inf
        changes = (_change("p50", statistics.median(a_ms), statistics.median(b_ms), spread, needed),)
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
        because=(*because, *invalid),
    )


def _welch(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Return mean(y) - mean(x) with Welch's 95 % interval; None if there are fewer than two of one."""
    from scipy.stats import ttest_ind

    if min(len(x), len(y)) < 2:
        return None
    value = statistics.fmean(y) - statistics.fmean(x)
    if len({*x}) == len({*y}) == 1:
        return Interval(value=value, low=value, high=value)
    with warnings.catch_warnings(action="ignore"):  # it warns if all values of one are equal; the interval is right
        bounds = ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    return Interval(value=value, low=float(bounds.low), high=float(bounds.high))
