"""examples/backend-template: installed by pip, found by its entry point, conforming, and run by a recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "examples" / "backend-template"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the template beside bpudeploy and return an environment with both."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, TEMPLATE], check=True, capture_output=True, cwd=site)
    return {**os.environ, "PYTHONPATH": str(site)}


def bpudeploy(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bpudeploy", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_it_is_found_by_its_entry_point(installed: dict[str, str], tmp_path: Path) -> None:
    listed = bpudeploy(installed, tmp_path, "backends", "--json")
    (found,) = [b for b in json.loads(listed.stdout) if b["name"] == "example_npu"]
    assert found["runtime"] == "onnxruntime" and "onnxruntime" in found["tools"]


def test_its_own_tests_pass(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(TEMPLATE / "test_example_npu.py")]
    ran = subprocess.run(command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and ran.stdout.startswith(".. "), ran.stdout + ran.stderr


def test_a_recipe_has_a_section_for_it(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "example-npu.yaml").write_text((TEMPLATE / "example-npu.yaml").read_text())
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(b"png")
    recipe = tmp_path / "r.yaml"
    text = """name: r
model: {source: w.safetensors, architecture: vit_small_patch16_224}
dataset: {source: photos, format: imagefolder, evaluation: {count: 1, seed: 0}}
calibration: {count: 1, seed: 1}
target: example-npu
compile: {example_npu: {level: LEVEL}}
"""
    recipe.write_text(text.replace("LEVEL", "none"))
    planned = bpudeploy(installed, tmp_path, "plan", "r.yaml")
    assert planned.returncode == 0 and "compile" in planned.stdout, planned.stderr
    recipe.write_text(text.replace("LEVEL", "hard"))
    refused = bpudeploy(installed, tmp_path, "plan", "r.yaml")
    assert refused.returncode == 2 and "r.yaml:6" in refused.stderr and "basic" in refused.stderr
