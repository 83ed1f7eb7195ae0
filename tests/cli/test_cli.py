"""The command line as a user meets it: help, errors, exit codes, what is printed where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bpudeploy.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]


def bpudeploy(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bpudeploy", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"bpudeploy {verb}" in capsys.readouterr().out.split("example:")[1]


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = "import sys, bpudeploy.cli.main as m; m.parser(''); print(sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("torch", "timm", "onnx", "onnxruntime", "numpy", "pydantic", "asyncssh", "yaml", "matplotlib"):
        assert f"'{name}'" not in done.stdout
    times = []
    for _ in range(5):
        before = time.perf_counter()
        assert bpudeploy("--help").returncode == 0
        times.append(time.perf_counter() - before)
    assert min(times) <= 0.25


def test_verbs_import_no_framework() -> None:
    code = (
        "import sys; from bpudeploy.cli.main import VERBS, main; "
        f"main(['plan', {str(ROOT / 'recipes' / 'quickstart.yaml')!r}, '--store', '/nonexistent']); "
        "print(sorted(n for n in ('torch', 'onnx', 'onnxruntime', 'timm', 'numpy') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_wrong_recipe_is_shown_with_place_field_and_fix(tiny: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"extends: {tiny}\ncalibration:\n  cuont: 3\nquantize: {{observer: msr}}\n")
    done = bpudeploy("plan", str(wrong))
    assert done.returncode == 2 and done.stdout == ""
    assert f"error: {wrong}:3:3: unknown key 'cuont'" in done.stderr
    assert "field: calibration.cuont" in done.stderr and "fix: did you mean count?" in done.stderr
    assert f"{wrong}:4:22" in done.stderr and "did you mean mse?" in done.stderr
    found = json.loads(bpudeploy("plan", str(wrong), "--json").stderr)["errors"]
    assert [e["where"] for e in found] == [f"{wrong}:3:3", f"{wrong}:4:22"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "{tiny}", "--set", "target=cpu-ssh"], "needs the address of a board"),
        (["run", "{tiny}", "--board", "somewhere"], "starts its own board"),
        (["run", "{tiny}", "--set", "target=rdk-x5", "--board", "b"], "hb_mapper is neither"),
        (["run", "{tiny}", "--set", "target=rdk-x5", "--until", "compile"], "hb_mapper is neither"),
        (["plan", "{tiny}", "--set", "target=rdk-s100", "--until", "compile"], "hb_compile is neither"),
        (["run", "{tiny}", "--set", "target=cpu-ssh", "--board", "a b"], "is not a board address"),
        (["run", "{tiny}", "--until", "quantise"], "no stage or step is named"),
        (["plan", "{tiny}x"], "there is no file"),
        (["report", "nowhere"], "cannot read"),
        (["fit-head", "{tiny}", "--l2", "-1"], "below 0"),
    ],
)
def test_usage_errors_come_before_any_work(
    tiny: Path, tmp_path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([a.replace("{tiny}", str(tiny)) for a in args]) == 2
    out, err = capsys.readouterr()
    assert message in err and "fix: " in err and out == ""
    assert not (tmp_path / "store" / "objects").exists()


def test_a_vendor_target_builds_up_to_its_compiler(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tiny), "--set", "target=rdk-x5"]) == 0
    out = capsys.readouterr().out
    assert "quantize" in out and "hb_mapper is not on this machine" in out


def test_explain_shows_every_part_of_the_key(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tiny), "--until", "fetch"]) == 0
    capsys.readouterr()
    assert main(["explain", str(tiny), "fetch/dataset"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fetch/dataset: hit, unchanged") and '"count": 4' in out and "version: 1" in out


def test_the_store_can_be_listed_verified_and_emptied(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tiny), "--until", "fetch"]) == 0
    assert main(["cache", "ls"]) == 0
    assert "fetch/model" in capsys.readouterr().out
    assert main(["cache", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == []
    assert main(["cache", "gc", "--older-than", "0", "--dry-run"]) == 0
    assert "would remove" in capsys.readouterr().out
    assert main(["cache", "gc", "--older-than", "0"]) == 0
    capsys.readouterr()
    assert main(["cache", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("local", "rdk-x3", "rdk-x5", "rdk-ultra", "rdk-s100"))
    assert main(["backends", "--json"]) == 0
    assert "ort" in [b["name"] for b in json.loads(capsys.readouterr().out)]
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["calibration"]


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = [sys.executable, "-c", "from bpudeploy.cli.main import *; [main(['schema']) for _ in range(9)]"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=60) == 0 and process.stderr.read() == ""
    process.stderr.close()


def test_ctrl_c_says_what_to_do_and_the_next_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bpudeploy", "run", str(tiny)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "store").glob("steps/*/*.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "to resume" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert bpudeploy("run", str(tiny), "--until", "compile").returncode == 0
