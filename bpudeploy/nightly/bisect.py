"""Bisection: find the release or commit that made a metric worse, in a list or a git history.

Each candidate is measured interleaved with the good one; some may be impossible to test.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from bpudeploy.commits import run_git
from bpudeploy.digest import short
from bpudeploy.errors import BpudeployError, UsageError
from bpudeploy.measure import Candidate
from bpudeploy.nightly.metrics import Metric
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.results.statistics import paired_drop

T = TypeVar("T")
Measure = Callable[[Sequence[Candidate]], tuple[Measurement, ...]]
"""Measures candidates interleaved on the board."""
_FIRST_BAD = re.compile(r"^([0-9a-f]{40}) is the first bad commit", re.MULTILINE)
_TIMEOUT_S = 120


class BisectResult(StrEnum):
    """The result of testing one candidate, in git's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It cannot be tested: it does not build, or its board does not answer."""


def search_list(between: Sequence[T], bad: T, test: Callable[[T], BisectResult]) -> tuple[T, ...]:
    """Return the first bad one among ``between`` (in order, after a good one) and ``bad``, which follows them.

    Several are returned if those between them cannot be tested.
    """
    left = [*between, bad]
    skipped: set[int] = set()
    low, high = 0, len(left) - 1  # left[high] is bad, all before left[low] are good
    while testable := [i for i in range(low, high) if i not in skipped]:
        middle = min(testable, key=lambda i: abs(i - (low + high - 1) / 2))
        result = test(left[middle])
        if result is BisectResult.SKIP:
            skipped.add(middle)
        elif result is BisectResult.BAD:
            high = middle
        else:
            low = middle + 1
    return tuple(left[low : high + 1])


def search_commits(folder: Path, good: str, bad: str, test: Callable[[Path, str], BisectResult]) -> tuple[str, ...]:
    """Return the first bad commit between ``good`` and ``bad`` with ``git bisect``, which handles merges.

    Several are returned if those between them cannot be tested. A separate worktree is used: the user's checkout, index
    and branches do not change.

    Args:
        folder: any folder of the repository.
        test: called with the checkout and the commit.

    Raises:
        UsageError: git fails: no such commits, or the good one is not an ancestor of the bad one.
    """
    first, last = (_commit(folder, one) for one in (good, bad))
    _git(folder, "merge-base", "--is-ancestor", first, last)
    with checkout(folder, last) as tree:
        output = _git(tree, "bisect", "start", last, first, "--")
        while (found := _FIRST_BAD.search(output)) is None:
            commit = _git(tree, "rev-parse", "HEAD").strip()
            output = _git(tree, "bisect", test(tree, commit).value, may_fail=True)
            if "skip'ped commits left" in output:
                return tuple(re.findall(r"^[0-9a-f]{40}$", output, re.MULTILINE))
        return (found[1],)


def repository_of(folder: Path) -> Path:
    """Return the top folder of the repository that contains ``folder``.

    Raises:
        UsageError: it is not in a repository.
    """
    return Path(_git(folder, "rev-parse", "--show-toplevel").strip())


@contextmanager
def checkout(folder: Path, commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary worktree.

    Raises:
        UsageError: git has no such commit, or there is no repository.
    """
    found = _commit(folder, commit)
    with tempfile.TemporaryDirectory(prefix="bpudeploy-") as parent:
        tree = Path(parent) / "checkout"
        _git(folder, "worktree", "add", "--quiet", "--detach", str(tree), found)
        try:
            yield tree
        finally:
            _git(folder, "worktree", "remove", "--force", str(tree), may_fail=True)


def _commit(folder: Path, revision: str) -> str:
    return _git(folder, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()


def _git(folder: Path, *arguments: str, may_fail: bool = False) -> str:
    try:
        done = run_git(folder, *arguments, seconds=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"cannot run git: {error}", hint="install git") from error
    if done.returncode and not may_fail:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UsageError(
            f"git {arguments[0]}: {lines[-1] if lines else f'exit {done.returncode}'}",
            hint="give two commits of the recipe's repository, the good one an ancestor of the bad one",
        )
    return done.stdout + done.stderr


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
