"""The real pipeline on a miniature: plan and run agree, edit after edit; the command line goes all the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bpudeploy
from bpudeploy.cli.main import main
from bpudeploy.planning import pipeline
from bpudeploy.planning.preview import StepState, preview
from bpudeploy.run.runner import run
from bpudeploy.store.gc import verify

EDITS = {
    "calibration.count": ["3", "4", "5", "6"],
    "calibration.seed": ["1", "2"],
    "dataset.evaluation.count": ["5", "6"],
    "dataset.evaluation.seed": ["0", "1"],
    "quantize.observer": ["mse", "minmax", "percentile", "entropy"],
    "restructure.tolerance": ["1e-5", "1e-4"],
    "preprocess.crop_pct": ["0.9", "1.0"],
    "model.image_size": ["64", "80"],
    "check.max_drop": ["1", "2"],
    "benchmark.warmup": ["1", "2"],
    "name": ["tiny", "other"],
}


def test_plan_and_run_agree_over_random_edits(tiny: Path, tmp_path: Path) -> None:
    rng, chosen = random.Random(3), dict[str, str]()
    checked = 0
    for _ in range(int(os.environ.get("BPUDEPLOY_EDITS", "12"))):
        field = rng.choice(list(EDITS))
        chosen[field] = rng.choice(EDITS[field])
        resolved = bpudeploy.load(tiny, *(f"{f}={v}" for f, v in chosen.items()))
        plan = pipeline.plan(resolved)
        force = [rng.choice(plan.steps).name] if rng.random() < 0.2 else []
        said = preview(plan, tmp_path / "store", force)
        did = run(plan, tmp_path / "store", lambda event: None, force)
        for o in said:
            assert o.state is StepState.AFTER or did.steps[o.step].hit == (o.state is StepState.HIT), (o, chosen)
            checked += o.state is not StepState.AFTER
        assert all(o.state is StepState.HIT for o in preview(plan, tmp_path / "store"))
    assert checked


def test_of_the_gates_only_max_drop_is_in_a_key_and_only_in_repairs(tiny: Path, tmp_path: Path) -> None:
    one = bpudeploy.load(tiny)
    run(pipeline.plan(one), tmp_path / "store", lambda event: None)
    other = bpudeploy.load(tiny, "check.max_p50_ms=5", "benchmark.min_frames=9", "name=other")
    assert run(pipeline.plan(other), tmp_path / "store", lambda event: None).ran == []
    gate = bpudeploy.load(tiny, "check.max_drop=50")
    ran = run(pipeline.plan(gate), tmp_path / "store", lambda event: None).ran
    assert ran == ["quantize/repair"], "a gate that held passes its bytes through, so nothing after it runs again"


def test_a_broken_promise_is_repaired_or_said(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A percentile of 60 clips two values in five of every tensor: no accuracy of anything survives that."""
    clipped = ["--set", "quantize.observer=percentile", "--set", "quantize.percentile=60"]
    loose = ["--set", "quantize.migrate=false", "--set", "quantize.int16=[]", "--set", "check.max_drop=0"]
    code = main(["run", str(tiny), "--until", "quantize", *clipped, *loose])
    said = capsys.readouterr().out
    assert code in (0, 4) and ("FAILED" in said) == (code == 4), said
    assert "max_drop 0 points" in said


def test_the_whole_way_through(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tiny), "--json"]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert [a["form"] for a in summary["accuracy"]] == ["float", "restructured", "int8", "on the board"]
    assert summary["proof_difference"] < 1e-5
    measured = summary["measurement"]
    assert measured["provenance"] == "measured" and measured["device"] == "CPU (onnxruntime)"
    assert measured["latency"]["frames"] >= 5 and len(measured["answers"]["top"]) == measured["score"]["images"] == 6
    assert summary["accuracy"][3]["correct"] == summary["accuracy"][2]["correct"]
    assert measured["score"]["as_host"]["value"] == 100 and summary["self_check"]["deviation"] < 0.01
    assert len(measured["rounds"]) >= 3 and measured["layers"] and measured["throughput"][0]["streams"] == 2
    assert summary["install"]["changed"] and "compile" in err
    page = (tmp_path / summary["run_directory"] / "report.html").read_text()
    assert all(digest in page for step in summary["steps"] for digest in step["digests"])
    assert main(["run", str(tiny), "--json", "--set", "check.max_p50_ms=0.000001"]) == 4
    again = json.loads(capsys.readouterr().out)
    assert not again["install"]["changed"] and again["install"]["bytes_sent"] == 0
    assert {s["cache"] for s in again["steps"]} == {"hit"} and again["release"] == summary["release"]
    assert main(["report", again["run_directory"]]) == 4
    assert "FAILED" in capsys.readouterr().out


def test_a_matrix_shares_steps(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both.yaml"
    both.write_text(f"extends: {tiny}\nmatrix: {{quantize.observer: [mse, minmax]}}\n")
    assert main(["run", str(both), "--until", "compile", "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["recipe"], second["recipe"]) == ("tiny-observer.mse", "tiny-observer.minmax")
    assert second["steps"]["restructure"]["cache"] == "hit" and second["steps"]["quantize"]["cache"] == "miss"


def test_a_head_is_fitted_and_used(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fitted.safetensors"
    assert main(["fit-head", str(tiny), "--out", str(out)]) == 0
    made = out.read_bytes()
    assert main(["fit-head", str(tiny), "--out", str(out), "--store", str(tmp_path / "fresh")]) == 0
    assert out.read_bytes() == made, "the same images give the same head"
    assert main(["run", str(tiny), "--set", f"model.head.source={out}", "--until", "restructure"]) == 0
    capsys.readouterr()


def test_the_whole_way_through_killed_anywhere_needs_no_repair(tiny: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    run_it = [sys.executable, "-m", "bpudeploy", "run", str(tiny), "--force"]
    moments = []
    for _ in range(int(os.environ.get("BPUDEPLOY_KILLS", "3"))):
        forced = rng.choice(["fetch/model", "restructure", "quantize", "compile"])
        process = subprocess.Popen([*run_it, forced], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(rng.uniform(0.2, 4.5))
        moments.append(process.poll() is None)
        process.kill()
        process.communicate()
    assert any(moments), "some were killed while they ran"
    assert main(["run", str(tiny)]) == 0
    assert verify(tmp_path / "store")[1] == []
    board = tmp_path / ".bpudeploy" / "boards" / "local" / "board"
    assert (board / "current" / "model.bin").is_file()
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _bytes(p)]
    assert not left, "no server and no agent outlives its run"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
