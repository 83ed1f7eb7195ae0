"""bisect: which release or commit made a metric worse, each candidate measured in turns with the good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bpudeploy.digest import short
from bpudeploy.errors import BpudeployError, UsageError
from bpudeploy.measure import Candidate
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.search import Told
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.results.statistics import paired_drop

Measure = Callable[[Sequence[Candidate]], tuple[Measurement, ...]]
"""Measures candidates in turns on the board."""


@dataclass(frozen=True)
class Trial:
    """One candidate and how it did."""

    name: str
    release: str | None
    told: Told
    change: Interval | None
    """Of the metric, from the good one to it, in percent or points; above 0: it is worse."""
    why: str = ""


@dataclass(frozen=True)
class Judge:
    """Tells good from bad: a candidate is bad that lost at least half of what the bad one did.

    Half, and not whether a test sees any change: of two levels, that is the nearest boundary between them, and the
    error of a trial is as small on either side.
    """

    metric: Metric
    good: Candidate
    bad: str
    """Digest of that release."""
    lost: float
    """By the bad one, percent or points."""
    measure: Measure

    def trial(self, name: str, candidate: Candidate) -> Trial:
        """Measure a candidate; once more where its interval holds the boundary."""
        release = candidate.release.digest
        if release == self.good.release.digest:
            return Trial(name, release, Told.GOOD, None, "the good release itself")
        if release == self.bad:
            return Trial(name, release, Told.BAD, None, "the bad release itself")
        try:
            change = loss(self.metric, self.good, candidate, self.measure)
            if change.low < self.lost / 2 < change.high:
                again = loss(self.metric, self.good, candidate, self.measure)
                change = min(change, again, key=lambda one: one.high - one.low)
        except BpudeployError as error:
            return Trial(name, release, Told.SKIP, None, error.message)
        close = "close to the boundary" if change.low < self.lost / 2 < change.high else ""
        return Trial(name, release, Told.BAD if change.value >= self.lost / 2 else Told.GOOD, change, close)


def judge(metric: Metric, good: Candidate, bad: Candidate, measure: Measure) -> tuple[Judge, Trial]:
    """Measure the bad one against the good one, and return what tells candidates apart.

    Raises:
        UsageError: the bad one is not worse: there is nothing to search for.
    """
    change = loss(metric, good, bad, measure)
    if change.low <= 0:
        raise UsageError(
            f"{short(bad.release.digest)} is not seen to be worse than {short(good.release.digest)}: "
            f"{metric.words} {change.value:+.2f} {metric.change_unit} ({change.low:+.2f} to {change.high:+.2f})",
            hint="name another --metric, or measure longer: --rounds 60",
        )
    bad_trial = Trial("bad", bad.release.digest, Told.BAD, change)
    return Judge(metric, good, bad.release.digest, change.value, measure), bad_trial


def loss(metric: Metric, good: Candidate, other: Candidate, measure: Measure) -> Interval:
    """Return what ``other`` loses against ``good``, in percent or points, with its 95 % interval where there is one.

    Raises:
        BpudeployError: the board failed, or the two cannot be compared.
    """
    if metric is Metric.SIZE:
        sizes = [one.release.binary.path.stat().st_size for one in (good, other)]
        return _exactly(100 * (sizes[1] / sizes[0] - 1))
    if good.evaluation.digest != other.evaluation.digest:
        raise UsageError("it was built with other evaluation images, so the two are not paired")
    a, b = measure([good, other])
    if metric is Metric.TOP1:
        assert a.answers is not None and b.answers is not None  # a session measures accuracy, always
        return paired_drop(a.answers.right, b.answers.right).points
    if metric is Metric.MEMORY:
        if a.peak_memory_mb is None or b.peak_memory_mb is None:
            raise UsageError("the board does not tell how much memory it takes")
        return _exactly(100 * (b.peak_memory_mb / a.peak_memory_mb - 1))
    found = compare([a], [b])
    change = next((one for one in found.latency if one.what == metric.value), None)
    if change is None or change.interval is None:
        raise UsageError(f"too few rounds for an interval of {metric.words}", hint="--rounds 20")
    return change.interval


def _exactly(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)
