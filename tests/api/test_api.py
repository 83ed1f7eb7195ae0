"""The Python API as a program uses it: typed, lazy, the same as the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import assert_type

import pytest

import bpudeploy
from bpudeploy.events import StepFinished
from bpudeploy.testing import EventLog, embedded_board


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, bpudeploy; bpudeploy.__dir__(); print(sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(f"'{name}'" in done.stdout for name in ("torch", "onnx", "numpy", "pydantic", "asyncssh", "yaml"))


def test_every_name_is_there_and_others_are_not() -> None:
    assert set(bpudeploy.__all__) <= set(dir(bpudeploy))
    assert all(getattr(bpudeploy, name) is not None for name in bpudeploy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        bpudeploy.quantise  # type: ignore[attr-defined]  # noqa: B018


def test_a_program_loads_plans_builds_deploys_and_compares(tiny: Path) -> None:
    recipe = bpudeploy.load(tiny, "calibration.count=3")
    assert_type(recipe, bpudeploy.LoadedRecipe)
    assert_type(recipe.recipe, bpudeploy.Recipe)
    assert_type(recipe.target, bpudeploy.Target)
    assert recipe.recipe.calibration.count == 3 and recipe.target.name == "local"
    planned = bpudeploy.plan(recipe)
    assert_type(planned, tuple[bpudeploy.PlannedStep, ...])
    assert {step.state for step in planned} == {"miss", "after"}
    log = EventLog()
    release = bpudeploy.build(recipe, on_event=log)
    assert_type(release, bpudeploy.Release)
    assert release.binary.path.is_file() and release.manifest.target == "local"
    assert any(isinstance(event, StepFinished) for event in log.of_step("quantize"))
    assert {step.state for step in bpudeploy.plan(recipe)} == {"hit"}
    first, second = (bpudeploy.deploy(recipe) for _ in range(2))
    assert_type(first, bpudeploy.Summary)
    assert_type(first.measurement, bpudeploy.Measurement)
    assert first.release == release.digest and first.measurement.latency is not None
    found = bpudeploy.compare(first.measurement, second.measurement)
    assert_type(found, bpudeploy.Comparison)
    assert found.accuracy is not None and found.accuracy.points.value == 0


def test_errors_carry_place_and_fix(tiny: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"extends: {tiny}\ncalibration:\n  cuont: 3\n")
    with pytest.raises(bpudeploy.BpudeployError) as caught:
        bpudeploy.load(wrong)
    assert str(caught.value.where) == f"{wrong}:3:3" and "count" in str(caught.value.hint)
    with pytest.raises(bpudeploy.BpudeployError, match="needs the address of a board"):
        bpudeploy.deploy(bpudeploy.load(tiny, "target=cpu-ssh"))


def test_a_matrix_is_several_recipes(tiny: Path, tmp_path: Path) -> None:
    several = tmp_path / "several.yaml"
    several.write_text(f"extends: {tiny}\nmatrix:\n  calibration.count: [2, 3]\n")
    with pytest.raises(bpudeploy.BpudeployError, match="2 recipes"):
        bpudeploy.load(several)


def test_a_board_for_tests_is_a_real_connection(tmp_path: Path) -> None:
    with embedded_board(tmp_path) as board:
        assert board.run(["uname"], timeout=10, step="test").stdout == "Linux\n"


def test_the_how_to_runs_as_it_is_written(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "python-api.md").read_text()
    Path("recipe.yaml").write_text(f"extends: {tiny}\n")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "python-api.md", "exec"), namespace)
    out = capsys.readouterr().out
    assert "fetch/weights miss" in out and "(float " in out and "quantize hit" in out
