"""Test whether a release or commit made a metric worse: each candidate is measured interleaved with the good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bpudeploy.digest import short
from bpudeploy.errors import BpudeployError, UsageError
from bpudeploy.measure import Candidate
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.search import BisectResult
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.results.statistics import paired_drop

Measure = Callable[[Sequence[Candidate]], tuple[Measurement, ...]]
"""Measures candidates interleaved on the board."""


@dataclass(frozen=True)
class Trial:
    """One candidate and its result."""

    name: str
    release: str | None
    result: BisectResult
    loss: Interval | None
    """Against the good one, in percent or points; positive: worse."""
    why: str = ""


@dataclass(frozen=True)
class BisectTest:
    """Tests candidates: one is bad if it has at least half of the bad release's loss.

    Half of it is the boundary between the two levels with the smallest error on either side.
    """

    metric: Metric
    good: Candidate
    bad: str
    """Digest of that release."""
    bad_loss: float
    """In percent or points."""
    measure: Measure

    def run(self, name: str, candidate: Candidate) -> Trial:
        """Measure a candidate; measure it again if its interval contains the boundary."""
        release = candidate.release.digest
        if release == self.good.release.digest:
            return Trial(name, release, BisectResult.GOOD, None, "the good release itself")
        if release == self.bad:
            return Trial(name, release, BisectResult.BAD, None, "the bad release itself")
        try:
            loss = loss_of(self.metric, self.good, candidate, self.measure)
            if self._is_close(loss):
                again = loss_of(self.metric, self.good, candidate, self.measure)
                loss = min(loss, again, key=lambda one: one.high - one.low)
        except BpudeployError as error:
            return Trial(name, release, BisectResult.SKIP, None, error.message)
        result = BisectResult.BAD if loss.value >= self.bad_loss / 2 else BisectResult.GOOD
        return Trial(name, release, result, loss, "close to the boundary" if self._is_close(loss) else "")

    def _is_close(self, loss: Interval) -> bool:
        return loss.low < self.bad_loss / 2 < loss.high


def bisect_test(metric: Metric, good: Candidate, bad: Candidate, measure: Measure) -> tuple[BisectTest, Trial]:
    """Measure the bad release against the good one and return the test for candidates, with this first trial.

    Raises:
        UsageError: the bad one is not worse, so there is nothing to search for.
    """
    loss = loss_of(metric, good, bad, measure)
    if loss.low <= 0:
        raise UsageError(
            f"{short(bad.release.digest)} is not significantly worse than {short(good.release.digest)}: "
            f"{metric.label} {loss.value:+.2f} {metric.change_unit} ({loss.low:+.2f} to {loss.high:+.2f})",
            hint="name another --metric, or measure longer: --rounds 60",
        )
    test = BisectTest(metric, good, bad.release.digest, loss.value, measure)
    return test, Trial("bad", bad.release.digest, BisectResult.BAD, loss)


def loss_of(metric: Metric, good: Candidate, other: Candidate, measure: Measure) -> Interval:
    """Return the loss of ``other`` against ``good`` in percent or points, with its 95 % interval if there is one.

    Raises:
        BpudeployError: the board failed, or the two cannot be compared.
    """
    if metric is Metric.SIZE:
        return _increase(*(one.release.binary.path.stat().st_size for one in (good, other)))
    if good.evaluation.digest != other.evaluation.digest:
        raise UsageError("it was built with other evaluation images, so the two cannot be paired")
    a, b = measure([good, other])
    if metric is Metric.TOP1:
        assert a.answers is not None and b.answers is not None  # a session always measures accuracy
        return paired_drop(a.answers.right, b.answers.right).points
    if metric is Metric.MEMORY:
        if a.peak_memory_mb is None or b.peak_memory_mb is None:
            raise UsageError("the board does not report memory use")
        return _increase(a.peak_memory_mb, b.peak_memory_mb)
    change = next((one for one in compare([a], [b]).latency if one.what == metric.value), None)
    if change is None or change.interval is None:
        raise UsageError(f"too few rounds for an interval of {metric.label}", hint="--rounds 20")
    return change.interval


def _increase(before: float, after: float) -> Interval:
    percent = 100 * (after / before - 1)
    return Interval(value=percent, low=percent, high=percent)
