"""commit_of: which commit files are of, asked of a real git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bpudeploy.commits import commit_of

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
pytestmark = needs_git


def run_git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    run_git(tmp_path, "init", "-q")
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    (tmp_path / "other.yaml").write_text("name: b\n")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_files_as_they_were_committed_are_of_that_commit(repository: Path) -> None:
    head = run_git(repository, "rev-parse", "HEAD").strip()
    assert commit_of([repository / "recipe.yaml"]) == head
    (repository / "other.yaml").write_text("changed\n")
    assert commit_of([repository / "recipe.yaml"]) == head, "another file's changes are not its own"
    assert commit_of([repository / "recipe.yaml", repository / "other.yaml"]) == f"{head}+changes"


def test_a_file_that_was_never_committed_is_a_change(repository: Path) -> None:
    (repository / "new.yaml").write_text("name: c\n")
    found = commit_of([repository / "new.yaml"])
    assert found is not None and found.endswith("+changes")


def test_there_may_be_no_repository_and_no_commit(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    assert commit_of([tmp_path / "recipe.yaml"]) is None
    run_git(tmp_path, "init", "-q")
    assert commit_of([tmp_path / "recipe.yaml"]) is None
    assert commit_of([]) is None


def test_without_git_nothing_is_known(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert commit_of([repository / "recipe.yaml"]) is None
