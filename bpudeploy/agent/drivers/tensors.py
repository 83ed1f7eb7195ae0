"""What the vendor's drivers share: pictures as an input wants them, and logits out of an output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Refused

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def own_threads(threads: int, runtime: str) -> None:
    """Refuse a number of CPU threads: the vendor's runtimes take none."""
    if threads:
        raise Refused(f"{runtime} has no setting for CPU threads", "leave `threads` out of the recipe's benchmark")


def checked(pixels: Any, batch: int, height: int, width: int) -> Any:
    """Return the pictures, or refuse what the network does not take."""
    if pixels.dtype != np.uint8 or tuple(pixels.shape) != (batch, height, width, 3):
        raise Refused(
            f"the network takes uint8 ({batch}, {height}, {width}, 3), the samples are {pixels.dtype} "
            f"{tuple(pixels.shape)}",
            "prepare the samples for this network",
        )
    return np.ascontiguousarray(pixels)


def picture(shape: Sequence[int], layout: str, where: str) -> tuple[int, int, int]:
    """Return batch, height and width of a three-channel input."""
    axes = {"NHWC": (1, 2, 3), "NCHW": (2, 3, 1)}.get(layout)
    if len(shape) != 4 or axes is None or shape[axes[2]] != 3 or min(shape) < 1:
        raise Refused(f"{where} is {tuple(shape)} in layout {layout}, not pictures of three channels", _REBUILD)
    return shape[0], shape[axes[0]], shape[axes[1]]


def one_nv12(batch: int, height: int, width: int, where: str) -> None:
    """Refuse what a packed NV12 buffer cannot be, or what no public document says the form of."""
    if batch != 1:
        raise Refused(f"{where} is NV12 with a batch of {batch}; how that is packed is not documented", _REBUILD)
    even(height, width, where)


def even(height: int, width: int, where: str) -> None:
    """Refuse NV12 with an odd side."""
    if height % 2 or width % 2:
        raise Refused(f"{where} is NV12 of {height}x{width}: both sides must be even", _REBUILD)


def ordered(pixels: Any, layout: str) -> Any:
    """Return NHWC pictures in ``layout``."""
    return np.ascontiguousarray(pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2))


def classes_axis(shape: Sequence[int], batch: int, where: str) -> int:
    """Return the axis of the classes: (N, C), (N, C, 1, 1), (N, 1, 1, C); refuse another shape."""
    wide = [axis for axis in range(1, len(shape)) if shape[axis] != 1]
    if len(shape) < 2 or shape[0] != batch or len(wide) != 1 or min(shape) < 1:
        raise Refused(f"{where} is {tuple(shape)}, not one row of logits for each of {batch} images", _CLASSIFIER)
    return wide[0]


def dequantized(values: Any, scales: Any, zeros: Any, axis: int, where: str) -> Any:
    """Return float32 of integers that have one scale, or one for each entry of ``axis``."""
    scale, zero = np.asarray(scales, dtype=np.float32).reshape(-1), np.asarray(zeros, dtype=np.float32).reshape(-1)
    size = values.shape[axis]
    if scale.size not in (1, size) or zero.size not in (0, 1, size) or not (np.isfinite(scale) & (scale > 0)).all():
        raise Refused(f"{where} holds integers and has {scale.size} scales for {size} classes", _FLOAT)
    along = [1] * values.ndim
    along[axis] = -1
    shifted = values.astype(np.float32) - (zero.reshape(along if zero.size > 1 else [1]) if zero.size else 0)
    return shifted * scale.reshape(along if scale.size > 1 else [1])


def rows(values: Any, batch: int, where: str) -> Any:
    """Return the logits as float32 (batch, classes), of the caller's own memory."""
    if not np.isfinite(values).all():
        raise Refused(f"{where} holds values that are no finite numbers", "build the network again; look at its log")
    return np.array(values, dtype=np.float32).reshape(batch, -1)


_REBUILD = "build the network for one RGB picture: input_type_rt nv12 or rgb, a batch of 1"
_CLASSIFIER = "only classifiers are evaluated: one output with a score for each class"
_FLOAT = "keep the network's last Dequantize, so that it gives float32"
