"""Bisection: the search for the first bad one, in a list or in a git history, with ones that cannot be tried."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from bpudeploy.commits import run_git
from bpudeploy.errors import UsageError

T = TypeVar("T")
_FIRST_BAD = re.compile(r"^([0-9a-f]{40}) is the first bad commit", re.MULTILINE)
_SECONDS = 120


class Told(StrEnum):
    """What a trial says; the words are git's."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It cannot be tried: it does not build, or its board does not answer."""


@dataclass(frozen=True)
class Found(Generic[T]):
    """Where the search ended: one suspect is the first bad one; several could not be told apart."""

    suspects: tuple[T, ...]


def search_list(between: Sequence[T], bad: T, try_one: Callable[[T], Told]) -> Found[T]:
    """Search the first bad one of ``between`` (all after a good one, in order), or ``bad``, which follows them."""
    left = [*between, bad]
    skipped: set[int] = set()
    low, high = 0, len(left) - 1  # left[high] is bad, all before left[low] are good
    while True:
        open_ = [i for i in range(low, high) if i not in skipped]
        if not open_:
            return Found(tuple(left[low : high + 1]))
        middle = min(open_, key=lambda i: abs(i - (low + high - 1) / 2))
        told = try_one(left[middle])
        if told is Told.SKIP:
            skipped.add(middle)
        elif told is Told.BAD:
            high = middle
        else:
            low = middle + 1


def search_commits(folder: Path, good: str, bad: str, try_one: Callable[[Path, str], Told]) -> Found[str]:
    """Search the first bad commit between ``good`` and ``bad`` by git's own bisection, which knows merges.

    Everything happens in a worktree of its own: the user's checkout, index and branches stay as they are.

    Args:
        folder: any folder of the repository.
        try_one: called with the checkout and the commit.

    Raises:
        UsageError: git refuses: no such commits, or the good one is not an ancestor of the bad one.
    """
    first, last = (_commit(folder, one) for one in (good, bad))
    _git(folder, "merge-base", "--is-ancestor", first, last)
    with checkout(folder, last) as tree:
        said = _git(tree, "bisect", "start", last, first, "--")
        while (found := _FIRST_BAD.search(said)) is None:
            commit = _git(tree, "rev-parse", "HEAD").strip()
            said = _git(tree, "bisect", try_one(tree, commit).value, may_fail=True)
            if "skip'ped commits left" in said:
                return Found(tuple(re.findall(r"^[0-9a-f]{40}$", said, re.MULTILINE)))
        return Found((found[1],))


def repository_of(folder: Path) -> Path:
    """Return the top folder of the repository that holds ``folder``.

    Raises:
        UsageError: none does.
    """
    return Path(_git(folder, "rev-parse", "--show-toplevel").strip())


@contextmanager
def checkout(folder: Path, commit: str) -> Iterator[Path]:
    """Give a checkout of a commit in a folder of its own; it is gone afterwards.

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


def _commit(folder: Path, named: str) -> str:
    return _git(folder, "rev-parse", "--verify", "--end-of-options", f"{named}^{{commit}}").strip()


def _git(folder: Path, *words: str, may_fail: bool = False) -> str:
    try:
        done = run_git(folder, *words, seconds=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"git cannot be run: {error}", hint="install git") from error
    if done.returncode and not may_fail:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UsageError(
            f"git {words[0]}: {said[-1] if said else f'exit {done.returncode}'}",
            hint="give two commits of the recipe's repository, the good one an ancestor of the bad one",
        )
    return done.stdout + done.stderr
