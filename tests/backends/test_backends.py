"""The conformance check: `ort` passes, and broken backends fail with the violation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.errors import StageContractError, UsageError
from bpudeploy.stage import Fingerprint, StepContext
from bpudeploy.testing import check_backend
from tests.backends.changed import ChangedBackend


def test_ort_conforms(tmp_path: Path) -> None:
    check_backend(load_backend("ort"), tmp_path)


class Loose(BaseModel):
    """Accepts any option."""


class Ort(ChangedBackend):
    base = "ort"


class NoTools(Ort):
    def fingerprint(self, options: Any) -> Fingerprint:
        return {}


class LooseOptions(Ort):
    options_type = Loose


class Outside(Ort):
    def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
        made = super().compile(work, inputs, options)
        return made.rename(work.dir.parent / f"{work.dir.name}.onnx")


class Random(Ort):
    def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
        made = super().compile(work, inputs, options)
        made.write_bytes(made.read_bytes() + os.urandom(8))
        return made


class ForgetsTheMean(Ort):
    def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
        wrong = work.dir / "p.json"
        wrong.write_text('{"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}')
        preprocess = type(inputs.preprocess)(inputs.preprocess.kind, inputs.preprocess.digest, wrong)
        changed = CompileInputs(inputs.graph, inputs.quantized, inputs.calibration, preprocess, inputs.march)
        return super().compile(work, changed, options)


class NoPixels(Ort):
    def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
        made = work.dir / "model.onnx"
        made.write_bytes(inputs.quantized.path.read_bytes())
        return made


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NoTools, "fingerprint names no tool"),
        (LooseOptions, "options_type is not frozen"),
        (Outside, "outside its work folder"),
        (Random, "gives different bytes"),
        (ForgetsTheMean, "is the mean inside"),
        (NoPixels, "not uint8"),
    ],
)
def test_a_broken_backend_fails_with_the_violation(tmp_path: Path, broken: Any, message: str) -> None:
    with pytest.raises(StageContractError, match=message):
        check_backend(broken(), tmp_path)


def test_backends_are_found_by_entry_point() -> None:
    assert "ort" in backend_names()
    assert load_backend("ort").name == "ort"
    assert load_backend("hb_mapper").name == "hb_mapper" and load_backend("hb_compile").name == "hb_compile"
    with pytest.raises(UsageError, match="no backend is named 'nobody'"):
        load_backend("nobody")


def test_a_fingerprint_imports_no_framework() -> None:
    code = (
        "import sys; from bpudeploy.backends.registry import load_backend; load_backend('ort').fingerprint(None); "
        "print([n for n in ('torch', 'onnx', 'onnxruntime', 'numpy') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
