"""A small classifier to put into fake artifacts, and what onnxruntime itself says of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.board.artifact import FAMILY, runnable

CLASSES = 10
NV12_ERROR = 0.1
"""How far NV12 moves a logit of the small network on these pictures; the logits spread by about 1.1."""


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
    """Return smooth RGB pictures, uint8: every 2x2 pixels nearly agree, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 2, width // 2, 3))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2) + rng.integers(-2, 3, (count, height, width, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


def expected(pixels: Any, **sides: int) -> Any:
    """Return what onnxruntime gives for RGB pictures."""
    import onnxruntime

    session = onnxruntime.InferenceSession(network(**sides), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": pixels})
    return logits


def same_answer(logits: Any, right: Any) -> bool:
    """Tell whether the best class is the same, in each row where NV12 may not decide it: the second is far behind."""
    best = np.sort(right, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * NV12_ERROR
    return bool((logits.argmax(1) == right.argmax(1))[clear].all())
