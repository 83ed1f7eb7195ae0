"""bisect as a user runs it: the commit of a recipe, or the release, that made a metric worse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from tests.nightly.test_commits import needs_git, run_git

pytestmark = needs_git
Out = pytest.CaptureFixture[str]
FAST = "benchmark: {warmup: 1, rounds: 8, min_frames: 64, min_seconds: 0, max_seconds: 3, precision: 100, streams: []}"
SHORT = "restructure: {approximate: {drop_blocks: [1, 2, 3, 4]}}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def project(tiny_files: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(store))
    (tmp_path / ".gitignore").write_text(".bpudeploy\n")
    run_git(tmp_path, "init", "-q", "-b", "main")
    yield tmp_path


def commit(project: Path, tiny_files: Path, *lines: str) -> str:
    """Commit a recipe with these lines, and return the commit."""
    text = "\n".join([f"extends: {tiny_files / 'tiny.yaml'}", "name: tiny", FAST, *lines])
    (project / "net.yaml").write_text(text + "\n")
    run_git(project, "add", ".")
    run_git(project, "commit", "-q", "--allow-empty", "-m", " ".join(lines) or "all blocks")
    return run_git(project, "rev-parse", "HEAD").strip()


def bisect(capsys: Out, *argv: str, code: int = 0) -> list[str]:
    assert main(["bisect", *argv, "--json"]) == code
    found: list[str] = json.loads(capsys.readouterr().out.splitlines()[-1])["suspects"]
    return found


def test_the_commit_that_made_it_slower_is_found_on_the_board(project: Path, tiny_files: Path, capsys: Out) -> None:
    good = commit(project, tiny_files, SHORT)
    commit(project, tiny_files, SHORT, "# the same network")
    bad = commit(project, tiny_files)
    commit(project, tiny_files, "# all blocks, still")
    (project / "net.yaml").write_text("my own change")
    assert bisect(capsys, "net.yaml", "--good", good, "--bad", "main") == [bad]
    assert (project / "net.yaml").read_text() == "my own change"
    assert main(["bisect", "net.yaml", "--good", good, "--bad", "main"]) == 0
    said = capsys.readouterr().out
    assert f"{bad} is the first bad one for p50" in said and "n, " in said and "all blocks" in said
    assert "the good release itself" in said, "a commit that builds the good release needs no board"


def test_commits_that_do_not_build_are_left_open(project: Path, tiny_files: Path, capsys: Out) -> None:
    good = commit(project, tiny_files, SHORT)
    broken = commit(project, tiny_files, "colour: red")
    bad = commit(project, tiny_files)
    suspects = bisect(capsys, "net.yaml", "--good", good, "--bad", bad, "--metric", "size", code=4)
    assert set(suspects) == {broken, bad}


def test_a_release_is_found_among_those_that_were_built_here(project: Path, tiny_files: Path, capsys: Out) -> None:
    releases = []
    for lines in ([SHORT], [SHORT, "quantize: {observer: minmax}"], ["quantize: {observer: minmax}"], []):
        commit(project, tiny_files, *lines)
        assert main(["run", "net.yaml", "--json"]) == 0
        releases.append(json.loads(capsys.readouterr().out.splitlines()[-1])["release"])
    argv = ["tiny@local", "--good", releases[0][:12], "--bad", releases[3][:12], "--metric", "size"]
    assert bisect(capsys, *argv) == [releases[2]]
    assert main(["bisect", "tiny@local", "--good", releases[3][:12], "--bad", releases[0][:12]]) == 2
    assert "the good one built first" in capsys.readouterr().err


def test_what_is_not_worse_is_not_searched_for(project: Path, tiny_files: Path, capsys: Out) -> None:
    good = commit(project, tiny_files)
    bad = commit(project, tiny_files, SHORT)
    assert main(["bisect", "net.yaml", "--good", good, "--bad", bad, "--metric", "size"]) == 2
    said = capsys.readouterr().err
    assert "is not significantly worse" in said and "another --metric" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["net.yaml", "--good", "nothing", "--bad", "main"], "git rev-parse"),
        (["no.yaml", "--good", "a", "--bad", "b"], "there is no file no.yaml"),
        (["other@local", "--good", "a", "--bad", "b"], "no release of 'other@local'"),
    ],
)
def test_what_there_is_not_is_refused(project: Path, tiny_files: Path, capsys: Out, argv: list[str], said: str) -> None:
    commit(project, tiny_files)
    assert main(["bisect", *argv]) == 2
    assert said in capsys.readouterr().err
