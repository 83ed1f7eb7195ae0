"""``pyeasy_dnn`` of hobot_dnn, the Python runtime of X3, X5 and Ultra; hobot_dnn_rdkx5 on a registry is X5's.

``forward`` copies without looking at the input's size, as many bytes as the array's first two sides say on X3 and all
its sides on X5 (in the bindings' public sources, dnn_python.cpp): only a flat array of exactly the right length is safe
on both. It holds the interpreter's lock while the BPU runs, and writes into buffers of the model: frames never overlap,
and each is copied out before the next. X3's gives int16 outputs as garbage (an int8 view). X5's subtracts 128 from an
RGB array in place and clamps at 0: every darker value is lost, so RGB is refused there; it is known by the property
``alignedShape``, which X3's does not have.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import hrt_model_exec, nv12, tensors
from .base import Layer, Refused, Timed, Unsuitable

NAME = "hobot_dnn"


class HobotDnn:
    """A network in the vendor's Python runtime. ``infer`` from several threads runs one after the other."""

    driver = NAME
    times_frames = True
    parallel = False

    def __init__(self, model: Any, tool: hrt_model_exec.Tool | None, package: str) -> None:
        """Refuse a network that is no classifier of pictures."""
        self._model, self._tool, self._lock = model, tool, threading.Lock()
        self.has_tool = tool is not None
        self.runtime = _version(package)
        inputs, outputs = list(model.inputs), list(model.outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise Refused(
                f"the network has {len(inputs)} inputs and {len(outputs)} outputs", "only classifiers are evaluated"
            )
        given = inputs[0].properties
        self._layout, kind, where = str(given.layout), str(given.tensor_type), "the input"
        self._nv12 = kind == "NV12"
        if kind not in ("NV12", "RGB") or str(given.dtype) != "uint8":
            raise Refused(
                f"the input is {kind} of {given.dtype}, shape {tuple(given.shape)}, layout {self._layout}",
                "build the network with input_type_rt nv12 or rgb",
            )
        if kind == "RGB" and hasattr(type(given), "alignedShape"):
            raise Unsuitable("X5's hobot_dnn makes 0 of RGB values below 128", "build with input_type_rt nv12")
        shape = tuple(int(side) for side in given.shape)
        self.batch, self._height, self._width = tensors.picture(shape, self._layout, where)
        if self._nv12:
            tensors.one_nv12(self.batch, self._height, self._width, where)
        self._read_output(outputs[0].properties)

    def _read_output(self, given: Any) -> None:
        shape = tuple(int(side) for side in given.shape)
        self._axis = tensors.classes_axis(shape, self.batch, "the output")
        self._shape, kind = shape, str(given.dtype)
        self._scales: Any = None
        if kind in ("int8", "int32"):
            self._scales = np.array(given.scale_data, dtype=np.float32)
            tensors.dequantized(np.zeros(shape, kind), self._scales, [], self._axis, "the output")
            if self._axis != len(shape) - 1:
                raise Refused(
                    f"the output is {kind} {shape}: the binding does not say how its rows are padded",
                    "keep the network's last Dequantize, so that it gives float32",
                )
        elif kind != "float32":
            raise Refused(f"the output is {kind}", "keep the network's last Dequantize, so that it gives float32")
        self._dtype = kind

    def prepare(self, pixels: Any) -> Any:
        """Return flat bytes, as the binding needs them."""
        checked = tensors.checked(pixels, self.batch, self._height, self._width)
        flat = nv12.packed(checked) if self._nv12 else tensors.ordered(checked, self._layout)
        return np.ascontiguousarray(flat.reshape(-1))

    def infer(self, fed: Any) -> Any:
        """Return the logits."""
        with self._lock:
            try:
                outputs = self._model.forward(fed)
            except Exception as error:
                raise Refused(f"forward failed: {error.__cause__ or error}", _HINT) from error
            if not outputs:  # it prints why to the process's own output, and returns None
                raise Refused("forward failed; the runtime's own log says why", _HINT)
            values = np.array(outputs[0].buffer)
        if values.dtype != np.dtype(self._dtype) or values.size != int(np.prod(self._shape)):
            raise Refused(f"forward gave {values.dtype} {values.shape}, not {self._dtype} {self._shape}", _HINT)
        values = values.reshape(self._shape)
        if self._scales is not None:
            values = tensors.dequantized(values, self._scales, [], self._axis, "the output")
        return tensors.rows(values, self.batch, "the output")

    def reserve(self, streams: int) -> None:
        """Frames never overlap here."""

    def timed(self, frames: int, streams: int) -> Timed:
        """Have hrt_model_exec time, where the board has it."""
        return hrt_model_exec.timed(self._tool, frames, streams)

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Have hrt_model_exec profile frames of its own making; empty where the board does not have it."""
        return self._tool.layers(len(frames)) if self._tool else []

    def close(self) -> None:
        """Let the model go."""
        self._model = None


def _version(package: str) -> str:
    try:
        from importlib.metadata import version

        return f"{package} {version(package)}"
    except Exception:
        return f"{package}, which says no version"


def open_session(model: str, threads: int, package: str = NAME) -> HobotDnn:
    """Load a .bin with ``package``: hobot_dnn or hobot_dnn_rdkx5.

    Raises:
        Unsuitable: this Python has no such package, its libraries are not here, or it cannot take such an input.
        Refused: it does not load the file, or the network is none that it can feed.
    """
    tensors.own_threads(threads, package)
    try:
        pyeasy_dnn = importlib.import_module(f"{package}.pyeasy_dnn")
    except Exception as error:  # a library that is not there is no ImportError everywhere
        raise Unsuitable(
            f"this Python has no {package}: {error}", "it is in the system's python3, not in a virtual environment"
        ) from error
    try:
        models = pyeasy_dnn.load(model)
    except Exception as error:
        raise Refused(f"{package} does not load the file: {error.__cause__ or error}", _HINT) from error
    if not models or len(models) != 1:
        raise Refused(f"the file holds {len(models or [])} models", "build one network into one file")
    return HobotDnn(models[0], hrt_model_exec.tool(model), package)


_HINT = "an artifact runs on the chip that it was compiled for, and no other: compile for this board's march"
