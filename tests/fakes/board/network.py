"""The BPU, faked: NV12 back to RGB by the vendor's full-range matrix, then the network in onnxruntime."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from .artifact import Artifact
from .world import World

_SESSIONS: dict[bytes, Any] = {}
_INTEGERS: dict[str, Any] = {"int8": np.int8, "int16": np.int16, "int32": np.int32}


def rgb(y: Any, uv: Any) -> Any:
    """Return RGB uint8 (N, H, W, 3) of NV12 planes: BT.601, full range, each U and V for its 2x2 pixels."""
    n, h, w = y.shape[:3]
    wide = uv.repeat(2, axis=1).repeat(2, axis=2).astype(np.float32) - 128
    luma, u, v = y.reshape(n, h, w).astype(np.float32), wide[..., 0], wide[..., 1]
    channels = [luma + 1.4017 * v, luma - 0.3437 * u - 0.7142 * v, luma + 1.7722 * u]
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def of_packed(artifact: Artifact, flat: Any) -> Any:
    """Return RGB pictures of what a B board is fed: one flat buffer."""
    n, h, w = artifact.batch, artifact.height, artifact.width
    if artifact.input_type == "nv12":
        return rgb(flat[: h * w].reshape(n, h, w, 1), flat[h * w :].reshape(n, h // 2, w // 2, 2))
    return of_plain(artifact, flat)


def of_plain(artifact: Artifact, values: Any) -> Any:
    """Return RGB pictures of an RGB input in its layout."""
    n, h, w = artifact.batch, artifact.height, artifact.width
    if artifact.input_type == "rgb-nchw":
        return np.ascontiguousarray(values.reshape(n, 3, h, w).transpose(0, 2, 3, 1))
    return values.reshape(n, h, w, 3)


def size(artifact: Artifact) -> int:
    """Return the bytes of one frame of a B board's input."""
    pixels = artifact.batch * artifact.height * artifact.width
    return pixels * 3 // 2 if artifact.input_type == "nv12" else pixels * 3


def run(artifact: Artifact, pictures: Any, world: World) -> Any:
    """Return the output as the runtime has it: float32, or integers."""
    if world.fail == "hang":
        time.sleep(3600)
    if world.fail == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    import onnxruntime

    session = _SESSIONS.get(artifact.onnx)
    if session is None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(artifact.onnx, options, providers=["CPUExecutionProvider"])
        _SESSIONS[artifact.onnx] = session
    (logits,) = session.run(None, {session.get_inputs()[0].name: pictures})
    if artifact.output in _INTEGERS:
        limits = np.iinfo(_INTEGERS[artifact.output])
        scaled = np.rint(logits / np.array(artifact.scales, np.float32))
        logits = np.clip(scaled, limits.min, limits.max).astype(_INTEGERS[artifact.output])
    return logits.reshape(artifact.shape)
