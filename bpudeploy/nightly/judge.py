"""A night's figures against a pinned baseline: in turns on one board where that can be, else against its sessions.

A regression is raised only when a second measurement, made at once, says so too; what is reported is the second, which
was not chosen for being bad.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bpudeploy.nightly.baseline import Baseline, OfBoard
from bpudeploy.nightly.metrics import Metric, invalid
from bpudeploy.nightly.night import Against, Finding, Outcome
from bpudeploy.nightly.series import Worse
from bpudeploy.results.compare import Comparison, Design
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.results.statistics import paired_drop
from bpudeploy.results.summary import Verdict
from bpudeploy.spec.suite import NightlyChecks

_MIN_SESSIONS = 5
"""Of the baseline on this board; with fewer, nobody knows how far apart its sessions are by themselves."""
_LEVEL = 0.999
"""Of the interval that one more session of the same release falls into: nights are many, and so are jobs."""


@dataclass(frozen=True)
class Held:
    """What was measured of a job at one time: the release, and its baseline's in turns with it where that was done."""

    measured: Measurement
    comparison: Comparison | None


def against_baseline(held: Sequence[Held], baseline: Baseline | None, checks: NightlyChecks) -> tuple[Finding, ...]:
    """Return what is known of each metric that is checked.

    Args:
        held: what was measured tonight, the latest last. The first look decides; where it says regression, the second.
    """
    if baseline is None:
        return ()
    found = []
    for metric in Metric:
        at_least = metric.at_least(checks)
        if at_least is None:
            continue
        looks = [finding for one in held if (finding := _look(metric, one, baseline, at_least)) is not None]
        if looks:
            found.append(_confirmed(looks))
    return tuple(found)


def _confirmed(looks: Sequence[Finding]) -> Finding:
    first, last = looks[0], looks[-1]
    if len(looks) == 1 or first.outcome is not Outcome.REGRESSION or not first.metric.is_latency:
        return first
    if last.outcome is Outcome.REGRESSION:
        return last.model_copy(update={"because": (*last.because, "measured twice, and worse both times")})
    why = "a first measurement said regression, and a second did not"
    return last.model_copy(update={"outcome": Outcome.CANNOT_TELL, "because": (*last.because, why)})


def _look(metric: Metric, held: Held, baseline: Baseline, at_least: float) -> Finding | None:
    m = held.measured
    now = metric.of(m)
    if now is None:
        return None
    if metric is Metric.TOP1:
        return _top1(m, baseline, at_least)
    if metric is Metric.SIZE:
        return _size(now, baseline, at_least)
    if metric.is_latency and held.comparison is not None and held.comparison.design is Design.INTERLEAVED:
        return _in_turns(metric, held.comparison, at_least)
    if metric is Metric.COMPILE_TIME:
        if m.build is None or round(now, 3) in baseline.compile_seconds:
            return None  # it was not compiled since
        return _apart(metric, now, baseline.compile_seconds, "times that the pinned release was compiled", at_least)
    return _on_board(metric, now, m, baseline.boards.get(m.board_id), at_least)


def _top1(m: Measurement, baseline: Baseline, at_least: float) -> Finding:
    pinned = baseline.accuracy
    now = Metric.TOP1.of(m)
    if pinned is None or m.answers is None or m.answers.samples != pinned.samples:
        why = "the pinned release was not measured on these images: pin anew with `bpudeploy baseline update`"
        before = pinned.top1 if pinned is not None else None
        return _finding(Metric.TOP1, now, before, None, at_least, "", (why,), Outcome.CANNOT_TELL)
    return paired(pinned.answers, m.answers.right, at_least, Against.BASELINE, "the pinned release")


def paired(before: Sequence[bool], now: Sequence[bool], at_least: float, against: Against, whose: str) -> Finding:
    """Return what a release's answers say of its accuracy, image by image with those that ``whose`` gave.

    A change is one where the exact McNemar test says so, and its points are as many as somebody cares for.
    """
    drop = paired_drop(before, now)
    change = Interval(value=-drop.points.value, low=-drop.points.high, high=-drop.points.low)
    if drop.lost == drop.gained == 0:
        change = Interval(value=0.0, low=0.0, high=0.0)
    told = _outcome(Metric.TOP1, change, at_least)
    if told in (Outcome.REGRESSION, Outcome.IMPROVEMENT) and drop.verdict is Verdict.CANNOT_TELL:
        told = Outcome.CANNOT_TELL
    said = f"{drop.lost} lost, {drop.gained} gained, p = {drop.p_value:.2g}"
    return Finding(
        metric=Metric.TOP1,
        against=against,
        outcome=told,
        now=100 * sum(now) / len(now),
        before=100 * sum(before) / len(before),
        change=change,
        at_least=at_least,
        how=f"paired with {whose} on the same {len(now)} images: {said}",
        because=(f"a loss is seen from {drop.detectable:.1f} points on",) if told is Outcome.CANNOT_TELL else (),
    )


def _size(now: float, baseline: Baseline, at_least: float) -> Finding | None:
    before = baseline.size_mb
    if before is None:
        return None
    percent = 100 * (now / before - 1)
    return _finding(
        Metric.SIZE, now, before, Interval(value=percent, low=percent, high=percent), at_least, "bytes of the binaries"
    )


def _in_turns(metric: Metric, comparison: Comparison, at_least: float) -> Finding | None:
    change = next((one for one in comparison.latency if one.what == metric.value), None)
    if change is None:
        return None
    how = f"in turns with the pinned release on {comparison.board}, {comparison.pairs} pairs of rounds"
    told = None if change.interval is not None and not comparison.because else Outcome.CANNOT_TELL
    return _finding(metric, change.b_ms, change.a_ms, change.interval, at_least, how, comparison.because, told)


def _on_board(metric: Metric, now: float, m: Measurement, pinned: OfBoard | None, at_least: float) -> Finding:
    values = [v for one in pinned.sessions if (v := one.of(metric)) is not None] if pinned is not None else []
    if metric.is_latency and invalid(m):
        before = statistics.median(values) if values else None
        why = tuple(caveat.meaning for caveat in m.caveats)
        return _finding(metric, now, before, None, at_least, "", why, Outcome.CANNOT_TELL)
    return _apart(metric, now, values, f"sessions of the pinned release on {m.board}", at_least)


def _apart(metric: Metric, now: float, before: Sequence[float], what: str, at_least: float) -> Finding:
    """Hold one more value against earlier ones: does it fall where the next of them would?

    The interval of the change is that of prediction: with the mean and standard deviation of n logarithms, one more
    falls into mean ± t(n-1) s sqrt(1 + 1/n) (Hahn and Meeker, Statistical Intervals, 2nd ed., 4.7).
    """
    if len(before) < _MIN_SESSIONS:
        why = f"{len(before)} {what}; {_MIN_SESSIONS} are needed to know how they differ by themselves"
        middle = statistics.median(before) if before else None
        return _finding(metric, now, middle, None, at_least, "", (why,), Outcome.CANNOT_TELL)
    from scipy.special import stdtrit

    logs = [math.log(value) for value in before]
    mean, n = statistics.fmean(logs), len(logs)
    half = float(stdtrit(n - 1, (1 + _LEVEL) / 2)) * statistics.stdev(logs) * math.sqrt(1 + 1 / n)
    value = math.log(now) - mean
    low, middle, high = (100 * math.expm1(x) for x in (value - half, value, value + half))
    how = f"against {n} {what}, by the {_LEVEL:.1%} interval of one more of them"
    return _finding(metric, now, math.exp(mean), Interval(value=middle, low=low, high=high), at_least, how)


def _finding(
    metric: Metric,
    now: float | None,
    before: float | None,
    change: Interval | None,
    at_least: float,
    how: str,
    because: Sequence[str] = (),
    outcome: Outcome | None = None,
) -> Finding:
    told = outcome or (_outcome(metric, change, at_least) if change is not None else Outcome.CANNOT_TELL)
    return Finding(
        metric=metric,
        against=Against.BASELINE,
        outcome=told,
        now=now,
        before=before,
        change=change,
        at_least=at_least,
        how=how,
        because=tuple(because),
    )


def _outcome(metric: Metric, change: Interval, at_least: float) -> Outcome:
    """Return what an interval says: a change in one direction, none that matters, or nothing.

    A change is one when its interval excludes 0 and its value is one that somebody cares for; there is none when the
    whole interval lies below that (Schuirmann's two one-sided tests, J. Pharmacokinet. Biopharm. 15, 1987).
    """
    low, value, high = change.low, change.value, change.high
    if (low > 0 or high < 0) and abs(value) >= at_least:
        went_up = value > 0
        return Outcome.REGRESSION if went_up == (metric.worse is Worse.HIGHER) else Outcome.IMPROVEMENT
    if low == high or (-at_least < low and high < at_least):
        return Outcome.SAME
    return Outcome.CANNOT_TELL
