"""Compare a night's figures with a pinned baseline: interleaved on one board if possible, else with its sessions.

A latency regression is reported only if an immediate second measurement confirms it. The second one is reported, as the
first is biased by having been selected.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bpudeploy.nightly.baseline import Baseline, BoardSessions
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, MetricFinding, Reference
from bpudeploy.results.compare import Comparison, Design
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.results.statistics import paired_drop
from bpudeploy.results.summary import Verdict
from bpudeploy.spec.suite import NightlyChecks

_MIN_SESSIONS = 5
"""Sessions of the baseline on this board that are required to estimate their spread."""
_LEVEL = 0.999
"""Level of the prediction interval of one more session; high, as there are many nights and jobs."""


@dataclass(frozen=True)
class JobMeasurement:
    """One measurement of a job, and its comparison with the baseline if that was measured interleaved with it."""

    measurement: Measurement
    comparison: Comparison | None


def baseline_findings(
    measured: Sequence[JobMeasurement], baseline: Baseline | None, checks: NightlyChecks
) -> tuple[MetricFinding, ...]:
    """Compare each checked metric with the baseline.

    Args:
        measured: tonight's measurements, newest last. The second one confirms or refutes a regression of the first.
    """
    if baseline is None:
        return ()
    found = []
    for metric in Metric:
        at_least = metric.threshold(checks)
        if at_least is None:
            continue
        findings = [f for one in measured if (f := _compare(metric, one, baseline, at_least)) is not None]
        if findings:
            found.append(_confirmed(findings[0], findings[-1]))
    return tuple(found)


def _confirmed(first: MetricFinding, last: MetricFinding) -> MetricFinding:
    if first is last or first.outcome is not FindingOutcome.REGRESSION or not first.metric.is_latency:
        return first
    if last.outcome is FindingOutcome.REGRESSION:
        return last.model_copy(update={"because": (*last.because, "confirmed by a second measurement")})
    why = "a second measurement did not confirm the regression"
    return last.model_copy(update={"outcome": FindingOutcome.CANNOT_TELL, "because": (*last.because, why)})


def _compare(metric: Metric, measured: JobMeasurement, baseline: Baseline, at_least: float) -> MetricFinding | None:
    m, comparison = measured.measurement, measured.comparison
    now = metric.value_in(m)
    if now is None:
        return None
    if metric is Metric.TOP1:
        return _top1(m, now, baseline, at_least)
    if metric is Metric.SIZE:
        return _size(now, baseline, at_least)
    if metric.is_latency and comparison is not None and comparison.design is Design.INTERLEAVED:
        return _interleaved(metric, comparison, at_least)
    if metric is Metric.COMPILE_TIME:
        if m.build is None or round(now, 3) in baseline.compile_seconds:
            return None  # not compiled since
        return _predicted(metric, now, baseline.compile_seconds, "compilations of the pinned release", at_least)
    return _with_sessions(metric, now, m, baseline.boards.get(m.board_id), at_least)


def _top1(m: Measurement, now: float, baseline: Baseline, at_least: float) -> MetricFinding:
    pinned = baseline.accuracy
    if pinned is None or m.answers is None or m.answers.samples != pinned.samples:
        why = "the pinned release was evaluated on other images; run `bpudeploy baseline update`"
        before = pinned.top1 if pinned is not None else None
        return _finding(Metric.TOP1, now, before, None, at_least, because=(why,))
    return accuracy_finding(pinned.answers, m.answers.right, at_least, Reference.BASELINE, "the pinned release")


def accuracy_finding(
    before: Sequence[bool], now: Sequence[bool], at_least: float, against: Reference, whose: str
) -> MetricFinding:
    """Compare the accuracy of a release with that of ``whose``, image by image.

    A change must be significant by the exact McNemar test and reach the threshold, in points.
    """
    drop = paired_drop(before, now)
    change = drop.change if drop.lost or drop.gained else Interval(value=0.0, low=0.0, high=0.0)
    how = (
        f"paired with {whose} on the same {len(now)} images: "
        f"{drop.lost} lost, {drop.gained} gained, p = {drop.p_value:.2g}"
    )
    top1, old = (100 * sum(right) / len(right) for right in (now, before))
    found = _finding(Metric.TOP1, top1, old, change, at_least, how).model_copy(update={"against": against})
    significant = found.outcome is FindingOutcome.SAME or drop.verdict is not Verdict.CANNOT_TELL
    if significant and found.outcome is not FindingOutcome.CANNOT_TELL:
        return found
    detectable = f"minimum detectable difference {drop.detectable:.1f} points"
    return found.model_copy(update={"outcome": FindingOutcome.CANNOT_TELL, "because": (detectable,)})


def _size(now: float, baseline: Baseline, at_least: float) -> MetricFinding | None:
    before = baseline.size_mb
    if before is None:
        return None
    percent = 100 * (now / before - 1)
    change = Interval(value=percent, low=percent, high=percent)
    return _finding(Metric.SIZE, now, before, change, at_least, "size of the binaries in bytes")


def _interleaved(metric: Metric, comparison: Comparison, at_least: float) -> MetricFinding | None:
    change = next((one for one in comparison.latency if one.what == metric.value), None)
    if change is None:
        return None
    how = f"interleaved with the pinned release on {comparison.board}, {comparison.pairs} pairs of rounds"
    found = _finding(metric, change.b_ms, change.a_ms, change.interval, at_least, how, comparison.because)
    return found.model_copy(update={"outcome": FindingOutcome.CANNOT_TELL}) if comparison.because else found


def _with_sessions(
    metric: Metric, now: float, m: Measurement, pinned: BoardSessions | None, at_least: float
) -> MetricFinding:
    values = [v for one in pinned.sessions if (v := one.value_of(metric)) is not None] if pinned is not None else []
    if metric.is_latency and m.invalidating:
        before = statistics.median(values) if values else None
        return _finding(metric, now, before, None, at_least, because=[caveat.meaning for caveat in m.caveats])
    return _predicted(metric, now, values, f"sessions of the pinned release on {m.board}", at_least)


def _predicted(metric: Metric, now: float, before: Sequence[float], what: str, at_least: float) -> MetricFinding:
    """Compare a value with the prediction interval of one more value like ``before``.

    With the mean and standard deviation s of n logarithms, it is mean ± t(n-1) s sqrt(1 + 1/n) (Hahn and Meeker,
    Statistical Intervals, 2nd ed., 4.7).
    """
    if len(before) < _MIN_SESSIONS:
        why = f"{len(before)} {what}; at least {_MIN_SESSIONS} are required"
        middle = statistics.median(before) if before else None
        return _finding(metric, now, middle, None, at_least, because=(why,))
    from scipy.special import stdtrit

    logs = [math.log(value) for value in before]
    mean, n = statistics.fmean(logs), len(logs)
    half = float(stdtrit(n - 1, (1 + _LEVEL) / 2)) * statistics.stdev(logs) * math.sqrt(1 + 1 / n)
    value = math.log(now) - mean
    low, middle, high = (100 * math.expm1(x) for x in (value - half, value, value + half))
    how = f"with {n} {what}, by the {_LEVEL:.1%} prediction interval"
    return _finding(metric, now, math.exp(mean), Interval(value=middle, low=low, high=high), at_least, how)


def _finding(
    metric: Metric,
    now: float,
    before: float | None,
    change: Interval | None,
    at_least: float,
    how: str = "",
    because: Sequence[str] = (),
) -> MetricFinding:
    return MetricFinding(
        metric=metric,
        against=Reference.BASELINE,
        outcome=_outcome(metric, change, at_least) if change is not None else FindingOutcome.CANNOT_TELL,
        now=now,
        before=before,
        change=change,
        at_least=at_least,
        how=how,
        because=tuple(because),
    )


def _outcome(metric: Metric, change: Interval, at_least: float) -> FindingOutcome:
    """Return the outcome of a change with its interval.

    It is a change if the interval excludes 0 and the value reaches the threshold, and none if the whole interval is
    below the threshold (Schuirmann's two one-sided tests, J. Pharmacokinet. Biopharm. 15, 1987).
    """
    low, value, high = change.low, change.value, change.high
    if (low > 0 or high < 0) and abs(value) >= at_least:
        return FindingOutcome.REGRESSION if (value > 0) is metric.higher_is_worse else FindingOutcome.IMPROVEMENT
    if low == high or (-at_least < low and high < at_least):
        return FindingOutcome.SAME
    return FindingOutcome.CANNOT_TELL
