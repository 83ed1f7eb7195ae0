"""Shared by the vendor drivers: input formats, output formats, and importing the vendor's Python packages."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import nv12
from .base import Refused, Unsuitable

DTYPES = {"F32": "float32", "S8": "int8", "U8": "uint8", "S16": "int16", "U16": "uint16", "S32": "int32"}
"""NumPy dtypes by the vendor's type names."""
WRONG_CHIP = "an artifact runs only on the chip that it was compiled for: compile for this board's march"
ONE_MODEL = "build one network into one file"
ONE_OUTPUT = "only classifiers are evaluated: one output with a score per class"
KEEP_DEQUANTIZE = "keep the network's last Dequantize, so that it outputs float32"
NV12_OR_RGB = "build the network with input_type_rt nv12 or rgb"
_REBUILD = "build the network for one RGB image: input_type_rt nv12 or rgb, batch size 1"


def import_runtime(package: str, module: str) -> Any:
    """Import a vendor's module.

    Raises:
        Unsuitable: it is missing, or its libraries are.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # missing libraries are not always an ImportError
        raise Unsuitable(
            f"this Python has no {package}: {error}", "it is in the system's python3, not in a virtual environment"
        ) from error


def refuse_threads(threads: int, runtime: str) -> None:
    """Refuse a number of CPU threads: the vendor's runtimes have no such setting."""
    if threads:
        raise Refused(f"{runtime} has no setting for CPU threads", "leave `threads` out of the recipe's benchmark")


@dataclass(frozen=True)
class ImageInput:
    """The input of an image classifier: one packed NV12 array, the planes of NV12, or RGB in a layout."""

    form: str  # packed, planes, NHWC or NCHW
    batch: int
    height: int
    width: int

    def arrays(self, pixels: Any) -> tuple[Any, ...]:
        """Convert RGB uint8 images to one array per input; refuse another shape or dtype."""
        expected = (self.batch, self.height, self.width, 3)
        if pixels.dtype != np.uint8 or tuple(pixels.shape) != expected:
            raise Refused(
                f"the network takes uint8 {expected}, the samples are {pixels.dtype} {tuple(pixels.shape)}",
                "prepare the samples for this network",
            )
        if self.form == "packed":
            return (nv12.packed(pixels),)
        if self.form == "planes":
            return nv12.planes(pixels)
        return (np.ascontiguousarray(pixels if self.form == "NHWC" else pixels.transpose(0, 3, 1, 2)),)


def image_input(
    inputs: Sequence[tuple[str, str, Sequence[int], str | None]], forms: Sequence[str], hint: str
) -> ImageInput:
    """Return the format of inputs, each given by name, type, shape and the layout that the runtime reports.

    Raises:
        Unsuitable: it is not one of ``forms``.
        Refused: it is not one image of a supported size, or a batch of them.
    """
    name, _, shape, layout = inputs[0]
    kinds, where = [kind for _, kind, _, _ in inputs], f"the input {name}".rstrip()
    found = None
    if kinds == ["U8", "U8"]:
        found = _two_planes(name, shape, inputs[1][0], inputs[1][2])
    elif kinds == ["NV12"]:
        found = ImageInput("packed", *_image_size(shape, layout or "", where))
        if found.batch != 1:
            raise Refused(f"{where} is NV12 with batch size {found.batch}; its format is not documented", _REBUILD)
    elif kinds == ["RGB"] and layout:
        found = ImageInput(layout, *_image_size(shape, layout, where))
    elif kinds == ["U8"] and layout is None and len(shape) == 4 and (shape[3] == 3 or "NCHW" in forms):
        layout = "NHWC" if shape[3] == 3 else "NCHW"
        found = ImageInput(layout, *_image_size(shape, layout, where))
    if found is None or found.form not in forms:
        listed = ", ".join(f"{name} {kind} {tuple(shape)}" for name, kind, shape, _ in inputs)
        raise Unsuitable(f"the network's inputs are {listed}", hint)
    if found.form in ("packed", "planes") and (found.height % 2 or found.width % 2):
        raise Refused(f"{where} is NV12 of {found.height}x{found.width}: both sides must be even", _REBUILD)
    return found


def _image_size(shape: Sequence[int], layout: str, where: str) -> tuple[int, int, int]:
    """Return batch, height and width of a three-channel input."""
    axes = {"NHWC": (1, 2, 3), "NCHW": (2, 3, 1)}.get(layout)
    if len(shape) != 4 or axes is None or shape[axes[2]] != 3 or min(shape) < 1:
        raise Refused(f"{where} is {tuple(shape)} in layout {layout}, not three-channel images", _REBUILD)
    return shape[0], shape[axes[0]], shape[axes[1]]


def _two_planes(y: str, luma: Sequence[int], uv: str, chroma: Sequence[int]) -> ImageInput:
    """Return the format of NV12 in two inputs, Y first; refuse anything else."""
    paired = y.endswith("_y") and uv == f"{y[:-2]}_uv" and len(luma) == 4 and luma[3] == 1
    if not paired or tuple(chroma) != (luma[0], luma[1] // 2, luma[2] // 2, 2):
        raise Refused(
            f"the inputs {y} {tuple(luma)} and {uv} {tuple(chroma)} are not the Y and UV planes of NV12", NV12_OR_RGB
        )
    return ImageInput("planes", *luma[:3])


class LogitsOutput:
    """A network's output: one row of logits per image, as float32 or as integers with one scale or one per class."""

    def __init__(
        self,
        where: str,
        kind: str,
        shape: Sequence[int],
        batch: int,
        scales: Any,
        zeros: Any = (),
        axis: int | None = None,
    ) -> None:
        """Refuse another shape than (N, C), (N, C, 1, 1) or (N, 1, 1, C), and scales that are missing or do not fit.

        Args:
            kind: the vendor's name of its type.
            axis: axis of the scales; by default that of the classes.
        """
        if kind not in DTYPES or (kind != "F32" and not np.size(scales)):
            raise Refused(f"{where} is {kind} with no scale", KEEP_DEQUANTIZE)
        wide = [i for i in range(1, len(shape)) if shape[i] != 1]
        if len(shape) < 2 or shape[0] != batch or len(wide) != 1 or min(shape) < 1:
            raise Refused(f"{where} is {tuple(shape)}, not one row of logits for each of {batch} images", ONE_OUTPUT)
        self.where, self.shape, self.dtype, self.classes_axis = where, tuple(shape), np.dtype(DTYPES[kind]), wide[0]
        self._batch, self._scale = batch, None
        if kind == "F32":
            return
        axis = self.classes_axis if axis is None else axis
        if not 0 <= axis < len(shape):
            raise Refused(f"{where} is quantized along axis {axis}", KEEP_DEQUANTIZE)
        scale, zero = np.array(scales, np.float32).reshape(-1), np.array(zeros, np.float32).reshape(-1)
        size = shape[axis]
        if scale.size not in (1, size) or zero.size not in (0, 1, size) or not (np.isfinite(scale) & (scale > 0)).all():
            raise Refused(f"{where} has integers and {scale.size} scales for {size} classes", KEEP_DEQUANTIZE)
        along = [1] * len(shape)
        along[axis] = -1
        self._scale = scale.reshape(along if scale.size > 1 else [1])
        self._zero = zero.reshape(along if zero.size > 1 else [1]) if zero.size else 0

    def logits(self, values: Any, function: str) -> Any:
        """Return a copy of what ``function`` of the runtime returned as float32 (batch, classes), dequantized."""
        if values.dtype != self.dtype or values.shape != self.shape:
            expected = f"{self.dtype} {self.shape}"
            raise Refused(f"{function} returned {values.dtype} {values.shape}, not {expected}", WRONG_CHIP)
        if self._scale is not None:
            values = (values.astype(np.float32) - self._zero) * self._scale
        if not np.isfinite(values).all():
            raise Refused(f"{self.where} has values that are not finite", "build the network again, and check its log")
        return np.array(values, dtype=np.float32).reshape(self._batch, -1)
