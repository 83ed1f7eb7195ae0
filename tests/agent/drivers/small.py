"""A small classifier for fake artifacts, and its reference output from onnxruntime."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.board.artifact import FAMILY, runnable

CLASSES = 10
NV12_ERROR = 0.1
"""Error of a logit from NV12 conversion; the logits have a spread of about 1.1."""


@lru_cache
def network(batch: int = 1, height: int = 16, width: int = 24, classes: int = CLASSES) -> bytes:
    """Return an ONNX network: uint8 RGB (batch, H, W, 3) to float32 logits (batch, classes), about -3 to 3."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    weights = rng.normal(size=(height * width * 3, classes)).astype(np.float32)
    weights /= np.sqrt(height * width * 3) * 60
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "mean"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["logits"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "mean": np.array(118, np.float32),
        "flat": np.array([batch, -1], np.int64),
        "weights": weights,
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, height, width, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    made: bytes = model.SerializeToString()
    return made


def artifact(folder: Path, march: str, input_type: str = "nv12", **more: Any) -> str:
    """Write an artifact of the small network; return its path."""
    sides = {key: more.pop(key) for key in ("batch", "height", "width", "classes") if key in more}
    kind = FAMILY[march]
    path = folder / f"net.{kind}"
    path.write_bytes(runnable(network(**sides), kind, march, input_type, **more))
    return str(path)


def pictures(count: int = 1, height: int = 16, width: int = 24, seed: int = 0) -> Any:
    """Return smooth RGB images, uint8: each 2x2 block is nearly uniform, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 2, width // 2, 3))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2) + rng.integers(-2, 3, (count, height, width, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


def expected(pixels: Any, **sides: int) -> Any:
    """Return onnxruntime's logits for RGB images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(network(**sides), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": pixels})
    return logits


def same_answer(logits: Any, right: Any) -> bool:
    """Return whether the top-1 classes match, except where the margin is within the error of NV12."""
    best = np.sort(right, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * NV12_ERROR
    return bool((logits.argmax(1) == right.argmax(1))[clear].all())


def assert_streams_are_independent(session: Any) -> None:
    """Run four streams in parallel; each must get the logits of its own image."""

    def stream(seed: int) -> bool:
        pixels = pictures(seed=seed)
        inputs, right = session.prepare(pixels), expected(pixels)
        return all(np.allclose(session.infer(inputs), right, atol=1e-5) for _ in range(25))

    with ThreadPoolExecutor(4) as streams:
        assert all(streams.map(stream, range(4)))
