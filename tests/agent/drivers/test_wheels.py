"""The vendors' wheels have the names that the drivers use. The wheels are for aarch64: they are read, not run.

Nothing of them is kept: they are marked confidential.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.network
_RUNTIME = {
    *("model_names", "input_names", "input_shapes", "input_dtypes"),
    *("output_names", "output_shapes", "output_dtypes", "output_quants", "run"),
}
_DTYPES = {"F32", "S8", "U8", "S16", "U16", "S32"}
_BINDING = (
    *("load", "forward", "core_id", "priority", "inputs", "outputs", "properties", "buffer"),
    *("tensor_type", "dtype", "layout", "shape", "scale_data", "alignedShape"),
)


def _member(wheel: str, member: str, folder: Path) -> bytes:
    asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
    asked += ["--python-version", "3.10", "--implementation", "cp", "--platform", "manylinux_2_34_aarch64", wheel]
    got = subprocess.run(asked, cwd=folder, capture_output=True, text=True)
    if got.returncode != 0:
        pytest.skip(f"no {wheel} from the package registry: {got.stderr.strip()[-200:]}")
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return archive.read(member)


def _classes(stub: bytes) -> dict[str, set[str]]:
    """Return the names in each class of a stub file."""
    classes = [node for node in ast.parse(stub).body if isinstance(node, ast.ClassDef)]
    return {found.name: {name for item in found.body if (name := _name(item))} for found in classes}


def _name(item: ast.stmt) -> str:
    if isinstance(item, ast.FunctionDef):
        return item.name
    return item.target.id if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) else ""


def test_hbm_runtime_has_the_names_that_the_driver_uses(tmp_path: Path) -> None:
    stub = _member("hbm-runtime==0.1.0.post1", "hbm_runtime/HB_HBMRuntime.pyi", tmp_path)
    classes = _classes(stub)
    assert classes["HB_HBMRuntime"] >= _RUNTIME
    assert {"scale", "zero_point", "quant_type", "axis"} <= classes["QuantParams"]
    assert classes["hbDNNDataType"] >= _DTYPES
    assert "SCALE" in classes["hbDNNQuantiType"]
    assert "compile_bpu_core_num" not in classes["HB_HBMRuntime"], "this release holds the interpreter's lock"


def test_x5s_hobot_dnn_has_the_names_that_the_driver_uses(tmp_path: Path) -> None:
    library = _member("hobot-dnn-rdkx5==3.0.6", "hobot_dnn_rdkx5/pyeasy_dnn.so", tmp_path)
    assert [name for name in _BINDING if name.encode() + b"\0" not in library] == []
