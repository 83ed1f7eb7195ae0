"""bench, compare and report as a user runs them, on releases that runs built."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from bpudeploy.measure import versions

Out = pytest.CaptureFixture[str]


def run(capsys: Out, *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(argv)) == code, capsys.readouterr()
    return capsys.readouterr().out


def error(capsys: Out, *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    return capsys.readouterr().err


@pytest.fixture
def built(tiny: Path, capsys: Out) -> tuple[str, str]:
    """Return the releases of two recipes that differ in their observer."""
    releases = []
    for name, observer in (("tiny", "mse"), ("other", "minmax")):
        said = run(
            capsys, "run", str(tiny), "--json", "--set", f"name={name}", "--set", f"quantize.observer={observer}"
        )
        releases.append(json.loads(said)["release"])
    return releases[0], releases[1]


def test_two_releases_are_measured_in_turns_compared_and_drawn(
    built: tuple[str, str], tmp_path: Path, capsys: Out
) -> None:
    current = tmp_path / ".bpudeploy" / "boards" / "local" / "board" / "current"
    before = current.readlink()
    lines = run(capsys, "bench", "other", "--against", "tiny", "--json", "--rounds", "6").splitlines()
    b, a, compared = (json.loads(line) for line in lines)
    assert (a["subject"]["release"], b["subject"]["release"]) == built and a["session"] == b["session"]
    assert compared["design"] == "interleaved" and compared["pairs"] >= 6
    assert (compared["a"], compared["b"]) == built and compared["verdict"] in ("worse", "better", "cannot tell")
    assert current.readlink() == before, "a benchmark activates nothing"

    again = json.loads(run(capsys, "compare", built[0][:8], "other", "--json", "--at-least", "1000"))
    assert again["a"] == built[0] and again["pairs"] == compared["pairs"]
    text = run(capsys, "compare", "tiny", "other", "--at-least", "1000")
    assert "verdict (p50 and top-1; latency from 1000 %)" in text and "interleaved" in text

    said = run(capsys, "report", "--out", "page.html")
    assert said.count("measured") == 4 and "page.html has" in said
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and built[0][:12] in page
    rows = list(csv.DictReader(io.StringIO(run(capsys, "report", "--csv", "--recipe", "tiny"))))
    assert len(rows) == 2 and {row["recipe"] for row in rows} == {"tiny"}
    (newest,) = run(capsys, "report", "--json", "--last", "1").splitlines()
    assert json.loads(newest)["session"] == a["session"]


def test_a_machine_without_a_tool_says_so_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpudeploy.measure.TOOLS", ("numpy", "no-such-tool"))
    assert versions()["no-such-tool"] == "not installed" != versions()["numpy"]


def test_the_last_release_of_a_run_can_be_measured_by_all_its_names(built: tuple[str, str], capsys: Out) -> None:
    runs = sorted(Path(".bpudeploy/runs").glob("*-tiny*"))
    for named in ("tiny@local", built[0][:6], str(runs[0])):
        (line,) = run(capsys, "bench", named, "--json", "--max-seconds", "0.5").splitlines()
        assert json.loads(line)["subject"]["release"] == built[0]
    text = run(capsys, "bench", "tiny", "--max-seconds", "0.5")
    assert "p50" in text and "streams:" in text and "loaded in" in text


def test_what_cannot_be_measured_or_compared_says_why(built: tuple[str, str], tiny: Path, capsys: Out) -> None:
    assert "no run in .bpudeploy/runs built a release 'nothing'" in error(capsys, "bench", "nothing")
    assert "other@local, tiny@local" in error(capsys, "bench", "nothing")
    assert "was built for local, not for cpu-ssh" in error(capsys, "bench", "tiny", "--target", "cpu-ssh")
    assert "starts its own board" in error(capsys, "bench", "tiny", "--board", "somewhere")
    assert "--rounds" in error(capsys, "bench", "tiny", "--rounds", "1")
    assert "no measurements of 'unheard'" in error(capsys, "compare", "tiny", "unheard")
    assert "no such measurements yet" in error(capsys, "report", "--recipe", "unheard")
    assert "cannot write" in error(capsys, "report", "--out", "no/such/folder/page.html")
    assert "mysql" in error(capsys, "report", "--results", "mysql://x/y")
    run(capsys, "run", str(tiny), "--set", "name=third", "--set", "dataset.evaluation.count=5")
    assert "different evaluation sets" in error(capsys, "bench", "third", "--against", "tiny")
    apart = run(capsys, "compare", "tiny", "third")
    assert "measured apart" in apart and "B is not distinguishable from A" in apart


def test_a_simulated_board_s_figures_are_kept_apart(tiny: Path, capsys: Out) -> None:
    run(capsys, "run", str(tiny))
    run(capsys, "run", str(tiny), "--set", "target=sim-x5", "--set", "name=simulated")
    kept = [json.loads(line) for line in run(capsys, "report", "--json").splitlines()]
    assert sorted(m["provenance"] for m in kept) == ["measured", "predicted", "simulated"]
    (simulated,) = (m for m in kept if m["provenance"] == "simulated")
    (predicted,) = (m for m in kept if m["provenance"] == "predicted")
    assert simulated["latency"] is None and simulated["rounds"] == [] and simulated["score"]["images"] == 6
    assert predicted["latency"] is None and predicted["predicted_ms"]["value"] > 0 and predicted["score"] is None
    assert "never" in error(capsys, "compare", "tiny", "simulated")


def test_a_store_that_lost_what_a_release_needs_says_so(built: tuple[str, str], tmp_path: Path, capsys: Out) -> None:
    capsys.readouterr()
    assert main(["bench", "tiny", "--store", str(tmp_path / "empty")]) == 3
    assert "no longer has" in capsys.readouterr().err
