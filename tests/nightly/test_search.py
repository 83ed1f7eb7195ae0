"""Bisection: the first bad one is found, whatever is in between, in lists and in a real git history."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.errors import UsageError
from bpudeploy.nightly.bisect import BisectResult, checkout, search_commits, search_list
from tests.nightly.test_commits import needs_git, run_git

pytestmark = needs_git


@given(data=st.data())
def test_the_first_bad_one_of_a_list_is_among_the_suspects_and_alone_where_nothing_was_skipped(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 60))
    first_bad = data.draw(st.integers(0, count - 1))
    broken = data.draw(st.frozensets(st.integers(0, count - 2))) if count > 1 else frozenset()
    tried: list[int] = []

    def try_one(one: int) -> BisectResult:
        tried.append(one)
        return BisectResult.SKIP if one in broken else BisectResult.BAD if one >= first_bad else BisectResult.GOOD

    found = search_list(range(count - 1), count - 1, try_one)
    assert first_bad in found
    assert len(found) == 1 or set(found[:-1]) <= broken, "only what cannot be tried is left open"
    assert len(tried) == len(set(tried)), "nothing is tried twice"
    assert broken or len(tried) <= count.bit_length()


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[str]]:
    """Ten commits, each with its number in a file."""
    run_git(tmp_path, "init", "-q", "-b", "main")
    commits = []
    for number in range(10):
        (tmp_path / "number").write_text(str(number))
        run_git(tmp_path, "add", ".")
        run_git(tmp_path, "commit", "-qm", f"number {number}")
        commits.append(run_git(tmp_path, "rev-parse", "HEAD").strip())
    return tmp_path, commits


@pytest.mark.parametrize("first_bad", [1, 4, 9])
def test_the_first_bad_commit_is_found_and_the_user_s_checkout_is_not_touched(
    history: tuple[Path, list[str]], first_bad: int
) -> None:
    folder, commits = history
    (folder / "number").write_text("my own change")
    (folder / "untracked").write_text("")
    before = run_git(folder, "status", "--porcelain=v2", "--branch")

    def try_one(tree: Path, commit: str) -> BisectResult:
        assert run_git(tree, "rev-parse", "HEAD").strip() == commit and tree != folder
        return BisectResult.BAD if int((tree / "number").read_text()) >= first_bad else BisectResult.GOOD

    found = search_commits(folder, commits[0], "main", try_one)
    assert found == (commits[first_bad],)
    assert run_git(folder, "status", "--porcelain=v2", "--branch") == before
    assert run_git(folder, "worktree", "list").count("\n") == 1
    assert not run_git(folder, "for-each-ref", "refs/bisect")


def test_commits_that_cannot_be_tried_leave_suspects(history: tuple[Path, list[str]]) -> None:
    folder, commits = history

    def try_one(tree: Path, commit: str) -> BisectResult:
        number = int((tree / "number").read_text())
        return BisectResult.SKIP if number in (4, 5) else BisectResult.BAD if number >= 5 else BisectResult.GOOD

    found = search_commits(folder, commits[0], commits[9], try_one)
    assert set(found) == set(commits[4:7])


def test_a_change_on_a_merged_branch_is_found_there(history: tuple[Path, list[str]]) -> None:
    folder, commits = history
    run_git(folder, "checkout", "-q", "-b", "side", commits[5])
    (folder / "side").write_text("bad")
    run_git(folder, "add", "side")
    run_git(folder, "commit", "-qm", "the culprit")
    culprit = run_git(folder, "rev-parse", "HEAD").strip()
    run_git(folder, "checkout", "-q", "main")
    run_git(folder, "merge", "-q", "--no-ff", "-m", "merge", "side")
    found = search_commits(
        folder, commits[0], "main", lambda tree, _: BisectResult.BAD if (tree / "side").exists() else BisectResult.GOOD
    )
    assert found == (culprit,)


def test_an_error_in_a_trial_leaves_no_worktree(history: tuple[Path, list[str]]) -> None:
    folder, commits = history

    def try_one(tree: Path, commit: str) -> BisectResult:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_commits(folder, commits[0], commits[9], try_one)
    assert run_git(folder, "worktree", "list").count("\n") == 1


@pytest.mark.parametrize(("good", "bad"), [("nothing", "main"), ("main", "nothing"), ("--help", "main")])
def test_commits_that_there_are_not_are_refused(history: tuple[Path, list[str]], good: str, bad: str) -> None:
    with pytest.raises(UsageError, match="git") as refused:
        search_commits(history[0], good, bad, lambda tree, commit: BisectResult.GOOD)
    assert refused.value.hint


def test_good_after_bad_is_refused(history: tuple[Path, list[str]]) -> None:
    folder, commits = history
    with pytest.raises(UsageError):
        search_commits(folder, commits[9], commits[0], lambda tree, commit: BisectResult.GOOD)


def test_a_checkout_is_gone_afterwards_and_outside_a_repository_there_is_none(
    history: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, commits = history
    with checkout(folder, commits[3]) as tree:
        assert (tree / "number").read_text() == "3"
    assert not tree.exists() and subprocess.run(["git", "-C", str(folder), "status"], check=False).returncode == 0
    with pytest.raises(UsageError), checkout(tmp_path_factory.mktemp("bare"), "main"):
        pass
