"""Bisection: find the first bad one in a list or a git history, some of which cannot be tested."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from bpudeploy.commits import run_git
from bpudeploy.errors import UsageError

T = TypeVar("T")
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
