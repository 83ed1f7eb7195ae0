"""Convert RGB to NV12 as the vendor's tools expect it: BT.601, full range.

``input_type_rt: nv12`` is full range unless the build asks for ``input_space_and_range: bt601_video``: horizon_tc_ui
converts by Y = 0.299 R + 0.587 G + 0.114 B, U = -0.169 R - 0.331 G + 0.5 B + 128, V = 0.5 R - 0.419 G - 0.081 B + 128
(its ``rgb2bt601_full_range``; ``RGB2NV12Transformer`` has the same), and hb_compile's nv12 of ``regular`` becomes
``nv12_full``. OpenCV's ``COLOR_BGR2YUV_I420``, in most of the vendor's samples, is limited range (16 to 235): a network
built as ``regular`` gets an image of lower contrast there. The model zoo's mobilenetv4 documents this, and uses
``bt601_video``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=np.float32)


def planes(rgb: Any) -> tuple[Any, Any]:
    """Return Y (N, H, W, 1) and UV (N, H/2, W/2, 2), both uint8, of RGB uint8 (N, H, W, 3); H and W are even.

    Values are rounded to nearest; U and V are the mean of 2x2 pixels (the vendor's transformer uses the first one).
    """
    n, h, w, channels = rgb.shape
    if channels != 3 or rgb.dtype != np.uint8 or h % 2 or w % 2:
        raise ValueError(f"{rgb.dtype} {tuple(rgb.shape)} is not an RGB uint8 image with even sides")
    y = rgb.astype(np.float32) @ _LUMA
    mean = rgb.reshape(n, h // 2, 2, w // 2, 2, 3).astype(np.float32).mean(axis=(2, 4))
    uv = mean @ _CHROMA.T + np.float32(128)
    return _bytes(y).reshape(n, h, w, 1), _bytes(uv)


def packed(rgb: Any) -> Any:
    """Return one image, RGB uint8 (1, H, W, 3), as H * W * 3 / 2 flat bytes: the Y plane, then interleaved UV."""
    y, uv = planes(rgb)
    return np.concatenate([y.reshape(-1), uv.reshape(-1)])


def _bytes(values: Any) -> Any:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
