"""bench on a real board: the agent's answers, what it refuses, and that it leaves with its connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bpudeploy.boards.ssh import SshBoard
from bpudeploy.digest import digest_file
from bpudeploy.effects.bench import bench
from bpudeploy.effects.push import push as push_by
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Progress
from bpudeploy.release import Release
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.stage import Artifact, Kind
from tests.effects.releases import policy, quiet, release


def push(board: SshBoard, installed: Release, emit: object) -> None:
    """Push without a signature: these tests are about what comes after."""
    push_by(board, installed, policy(None), quiet)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path, Any]:
    """Return a binary that answers with the mean of each channel, its samples, and its answers."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("n")
    nodes = [
        helper.make_node("Transpose", ["p"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Reshape", ["g", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("p", onnx.TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([1, 3]), "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    means = pixels.reshape(7, 64, 3).mean(axis=1)
    labels = means.argmax(axis=1).astype(np.int64)
    labels[0] = (labels[0] + 1) % 3  # one is wrong
    save_file({"pixels": pixels, "labels": labels}, folder / "s.safetensors")
    return model.SerializeToString(), folder / "s.safetensors", means


METHOD = BenchmarkSpec(warmup=3, min_frames=20, min_seconds=0, threads=1)


def samples(path: Path) -> Artifact:
    return Artifact(Kind.SAMPLES, digest_file(path), path)


def test_the_board_s_answers_are_the_network_s(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    import numpy as np

    installed, events = release(tmp_path, network[0]), list[Event]()
    push(board, installed, quiet)
    measured = bench(board, installed, samples(network[1]), METHOD, events.append)
    np.testing.assert_allclose(np.array(measured.logits), network[2], rtol=1e-5)
    assert (measured.correct, measured.images) == (6, 7)
    assert measured.latency.frames == 20 and measured.warmup_frames == 3 and measured.peak_memory_mb > 1
    assert measured.facts.cores >= 1 and measured.release == installed.digest
    assert any(isinstance(e, Progress) and (e.done, e.total) == (7, 7) for e in events)
    longer = bench(board, installed, samples(network[1]), METHOD.model_copy(update={"min_seconds": 0.3}), quiet)
    assert sum(longer.latency.samples_ms) / 1000 > 0.1 and longer.latency.frames > 20


def test_damaged_samples_are_sent_again(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    installed = release(tmp_path, network[0])
    push(board, installed, quiet)
    bench(board, installed, samples(network[1]), METHOD, quiet)
    (there,) = (root / "data").glob("*.safetensors")
    there.write_bytes(b"\0" * there.stat().st_size)
    assert bench(board, installed, samples(network[1]), METHOD, quiet).correct == 6


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Welcome to Ubuntu'", "not its protocol"),
        ('echo \'{"kind": "done", "images": 7}\'', "not its protocol"),
        ("exit 0", "ended too early"),
        ("echo 'Traceback: no module named onnxruntime' >&2; exit 1", "no module named onnxruntime"),
        ("kill -9 $$", "board"),
    ],
)
def test_an_agent_that_misbehaves_is_a_board_error(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any], script: str, message: str
) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    installed = release(tmp_path, network[0])
    push(board, installed, quiet)
    before, board.python = board.python, str(python)
    try:
        with pytest.raises(BoardError, match=message):
            bench(board, installed, samples(network[1]), METHOD, quiet)
    finally:
        board.python = before


@pytest.mark.parametrize("damage", ["short", "header", "other"])
def test_the_agent_refuses_samples_that_make_no_sense(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any], damage: str
) -> None:
    data = network[1].read_bytes()
    broken = {"short": data[:-10], "header": b"\xff" * 8 + data[8:], "other": b"not safetensors"}[damage]
    path = tmp_path / "s.safetensors"
    path.write_bytes(broken)
    installed = release(tmp_path, network[0])
    push(board, installed, quiet)
    with pytest.raises(BoardError, match="it exited 1"):
        bench(board, installed, samples(path), METHOD, quiet)


def test_the_agent_ends_with_its_connection(tmp_path: Path, network: tuple[bytes, Path, Any]) -> None:
    import subprocess
    import sys
    import time

    from bpudeploy.effects.bench import AGENT

    (tmp_path / "m.onnx").write_bytes(network[0])
    command = [sys.executable, str(AGENT), "--model", str(tmp_path / "m.onnx"), "--samples", str(network[1])]
    command += ["--warmup", "0", "--min-frames", "10", "--min-seconds", "1000"]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert agent.stdin is not None and agent.stdout is not None
    assert '"facts"' in agent.stdout.readline()
    agent.stdin.close()
    started = time.monotonic()
    assert agent.wait(timeout=10) != 0 and time.monotonic() - started < 5
    agent.stdout.close()


def test_the_agent_is_one_file_for_older_pythons() -> None:
    import ast
    import sys

    from bpudeploy.effects.bench import AGENT

    tree = ast.parse(AGENT.read_text(), feature_version=(3, 8))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} <= {*sys.stdlib_module_names, "numpy", "onnxruntime"}
