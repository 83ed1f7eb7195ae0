"""A fake board, the packed agent, and small networks and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bpudeploy.effects.agent import packed_agent
from tests.agent.host import FakeBoard, furnish
from tests.fakes.board.artifact import runnable
from tests.fakes.board.fixtures import Board, install

CLASSES = 10
SIZE = 8


@pytest.fixture(scope="session")
def agent_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "agent.zip"
    path.write_bytes(packed_agent())
    return path


@pytest.fixture
def board(tmp_path: Path, agent_zip: Path) -> FakeBoard:
    agent = tmp_path / "agent.zip"  # a copy, so that its path tells this test's processes from others
    agent.write_bytes(agent_zip.read_bytes())
    board = FakeBoard(tmp_path, agent)
    furnish(board)
    return board


def write_model(path: Path, batch: int = 1, bias: list[float] | None = None, weights: float = 1.0) -> Path:
    """Write a linear classifier of RGB uint8 (batch, 8, 8, 3)."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper, numpy_helper

    noise = np.random.default_rng(0)
    linear = (noise.normal(size=(SIZE * SIZE * 3, CLASSES)) * weights).astype(np.float32)
    constants = {"linear": linear, "bias": np.array(bias or [0.0] * CLASSES, np.float32)}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], "cast", to=T.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "linear"], ["product"], "product"),
        helper.make_node("Add", ["product", "bias"], ["logits"], "sum"),
    ]
    given = helper.make_tensor_value_info("pixels", T.UINT8, [batch, SIZE, SIZE, 3])
    wanted = helper.make_tensor_value_info("logits", T.FLOAT, [batch, CLASSES])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "linear", [given], [wanted], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def expected(pixels: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the logits of ``write_model``'s network."""
    noise = np.random.default_rng(0)
    linear = noise.normal(size=(SIZE * SIZE * 3, CLASSES)).astype(np.float32)
    return pixels[first:last].reshape(last - first, -1).astype(np.float32) @ linear


@pytest.fixture
def tool(board: FakeBoard, model: Path) -> tuple[Board, Path]:
    """Return an X5 with the vendor's command line tool but no Python runtime, and a network compiled for it."""
    path = board.folder / "model.bin"
    path.write_bytes(runnable(model.read_bytes(), "bin", "bayes-e", "rgb-nhwc"))
    return install(board.folder / "x5", "x5", runtimes=()), path


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (50, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("samples") / "samples.safetensors"
    save_file({"pixels": pixels, "labels": np.arange(len(pixels), dtype=np.int64)}, path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")
