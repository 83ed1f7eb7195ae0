"""The packed agent: reproducible, Python 3.8 syntax, and no imports that a board lacks."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bpudeploy.effects.agent import packed_agent
from tests.agent.host import FakeBoard

AGENT = Path(__file__).parents[2] / "bpudeploy" / "agent"
SOURCES = sorted(AGENT.rglob("*.py"))
A_BOARD_HAS = {"numpy", "onnxruntime", "hobot_dnn", "hbm_runtime"}


def test_packing_is_reproducible() -> None:
    first = packed_agent()
    packed_agent.cache_clear()
    assert packed_agent() == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert names == sorted(names) and "__main__.py" in names
    assert len(names) == len(SOURCES) + 1 and not [name for name in names if "__pycache__" in name]


def test_it_runs_in_any_folder_with_a_plain_python(agent_zip: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", str(agent_zip), "--root", str(tmp_path)],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        input=b"",
        capture_output=True,
        timeout=20,
    )
    assert ended.returncode == 1 and ended.stderr == b"agent: its input was closed: the host is gone\n"
    assert all(json.loads(line)["is"] == "hello" for line in ended.stdout.splitlines())
    assert [path.name for path in agent_zip.parent.iterdir()] == [agent_zip.name], "it leaves no cache beside itself"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(AGENT)))
def test_it_is_valid_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {str(node.module).split(".")[0]}
        else:
            continue
        assert names <= sys.stdlib_module_names | A_BOARD_HAS, names


def test_a_driver_that_a_backend_brings_runs_its_networks(
    board: FakeBoard, tmp_path: Path, model: Path, samples: Path
) -> None:
    driver = tmp_path / "example.py"
    driver.write_text(
        "from . import ort\n\n\ndef open_session(model, threads):\n    return ort.open_session(model, threads)\n"
    )
    board.agent.write_bytes(packed_agent((("example_runtime", driver),)))
    with board.ready() as agent:
        assert agent.load(model, samples, runtime="example_runtime")[-1]["is"] == "done"
        (failed,) = agent.load(model, samples, runtime="another_runtime")
        assert "no driver for the runtime 'another_runtime'" in failed["why"]
