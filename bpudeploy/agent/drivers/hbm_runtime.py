"""``hbm_runtime.HB_HBMRuntime``, the Python runtime of S100, S100P and S600 (.hbm), and of X5 since its OS 3.5 (.bin).

One runtime object runs one call at a time ("run() already in use", in the binding's public source): each thread that
calls ``infer`` at the same moment gets an object of its own, loaded when it is first needed. ``reserve`` loads them
ahead. A failure inside the runtime's own thread ends the whole process. The first releases, and X5's, hold the
interpreter's lock while they run: frames overlap only in those that have ``compile_bpu_core_num``. X5's build is known
by its tensor type NV12: one packed array is fed, whose size the runtime does not look at.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import hrt_model_exec, nv12, tensors
from .base import Layer, Refused, Timed, Unsuitable

NAME = "hbm_runtime"
_ROW = 16
"""X5 aligns the rows of an NV12 picture to so many bytes, and the binding does not say how."""
_DTYPES = {"F32": "float32", "S8": "int8", "U8": "uint8", "S16": "int16", "U16": "uint16", "S32": "int32"}


class HbmRuntime:
    """A network in the vendor's Python runtime. Frames of several threads run at once, each in a copy of its own."""

    driver = NAME
    times_frames = True

    def __init__(self, module: Any, path: str, tool: hrt_model_exec.Tool | None, suffix: str) -> None:
        """Load it once; refuse a network that is no classifier of pictures."""
        self._module, self._path, self._tool, self._suffix = module, path, tool, suffix
        self.has_tool = tool is not None
        self.parallel = hasattr(module.HB_HBMRuntime, "compile_bpu_core_num")
        self._lock = threading.Lock()
        self._free: list[Any] = []
        first = self._load()
        self._free.append(first)
        self.runtime = f"{NAME}, libdnn {getattr(module.HB_HBMRuntime, 'version', 'of no version')}"
        names = list(first.model_names)
        if len(names) != 1:
            raise Refused(f"the file holds {len(names)} models", "build one network into one file")
        self._name = names[0]
        self._read_inputs(first)
        self._read_output(first)

    def _load(self) -> Any:
        """Load the file under a name of its kind: the runtime looks at that, too."""
        try:
            if not self._path.endswith(self._suffix):
                with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
                    named = os.path.join(folder, f"model{self._suffix}")
                    os.symlink(os.path.abspath(self._path), named)
                    return self._module.HB_HBMRuntime(named)
            return self._module.HB_HBMRuntime(self._path)
        except Exception as error:
            raise Refused(f"{NAME} does not load the file: {error}", _HINT) from error

    def _read_inputs(self, runtime: Any) -> None:
        self._inputs = list(runtime.input_names[self._name])
        shapes = [tuple(int(s) for s in runtime.input_shapes[self._name][name]) for name in self._inputs]
        kinds = [_name(runtime.input_dtypes[self._name][name]) for name in self._inputs]
        self._packed = kinds == ["NV12"]
        if self._packed:
            where = f"the input {self._inputs[0]}"
            self.batch, self._height, self._width = tensors.picture(shapes[0], "NCHW", where)
            tensors.one_nv12(self.batch, self._height, self._width, where)
            if self._width % _ROW:
                raise Unsuitable(f"{where} is {self._width} pixels wide", f"use a multiple of {_ROW}: model.image_size")
        elif set(kinds) == {"U8"} and len(self._inputs) == 2:
            self.batch, self._height, self._width = hrt_model_exec.two_planes(list(zip(self._inputs, shapes)))
        elif kinds == ["U8"] and len(shapes[0]) == 4 and shapes[0][3] == 3:
            where = f"the input {self._inputs[0]}"
            self.batch, self._height, self._width = tensors.picture(shapes[0], "NHWC", where)
        else:
            said = ", ".join(f"{n} {k} {s}" for n, k, s in zip(self._inputs, kinds, shapes))
            raise Unsuitable(f"the network's inputs are {said}", "build it with input_type_rt nv12, or rgb in NHWC")

    def _read_output(self, runtime: Any) -> None:
        names = list(runtime.output_names[self._name])
        if len(names) != 1:
            raise Refused(f"the network has {len(names)} outputs", "only classifiers are evaluated: one output")
        self._output, self._where = names[0], f"the output {names[0]}"
        self._shape = tuple(int(side) for side in runtime.output_shapes[self._name][self._output])
        self._axis = tensors.classes_axis(self._shape, self.batch, self._where)
        kind = _name(runtime.output_dtypes[self._name][self._output])
        self._dtype = _DTYPES.get(kind, "")
        self._quants: Any = None
        if kind != "F32":
            quants = runtime.output_quants[self._name][self._output]
            if self._dtype not in tensors.INTEGERS or _name(quants.quant_type) != "SCALE":
                raise Refused(f"{self._where} is {kind} with no scale", "keep the network's last Dequantize")
            scales, zeros = np.array(quants.scale, np.float32), np.array(quants.zero_point, np.float32)
            axis = self._axis if scales.size == 1 else int(quants.axis)
            if not 0 <= axis < len(self._shape):
                raise Refused(f"{self._where} is quantized along axis {axis}", "keep the network's last Dequantize")
            self._quants = (scales, zeros, axis)
            tensors.dequantized(np.zeros(self._shape, self._dtype), scales, zeros, axis, self._where)

    def reserve(self, streams: int) -> None:
        """Load what ``streams`` threads will need, so that none of them loads in its first frame."""
        while len(self._free) < streams:
            self._free.append(self._load())

    def prepare(self, pixels: Any) -> Any:
        """Return what the runtime takes: the inputs by their name."""
        checked = tensors.checked(pixels, self.batch, self._height, self._width)
        if self._packed:
            arrays: tuple[Any, ...] = (nv12.packed(checked).reshape(1, self._height * 3 // 2, self._width, 1),)
        else:
            arrays = nv12.planes(checked) if len(self._inputs) == 2 else (checked,)
        return {self._name: dict(zip(self._inputs, arrays))}

    def infer(self, fed: Any) -> Any:
        """Return the logits."""
        with self._lock:
            runtime = self._free.pop() if self._free else None
        runtime = runtime or self._load()
        try:
            values = np.array(runtime.run(fed)[self._name][self._output])
        except Exception as error:
            raise Refused(f"run failed: {error}", _HINT) from error
        finally:
            with self._lock:
                self._free.append(runtime)
        if values.dtype != np.dtype(self._dtype) or values.shape != self._shape:
            raise Refused(f"run gave {values.dtype} {values.shape}, not {self._dtype} {self._shape}", _HINT)
        if self._quants is not None:
            scales, zeros, axis = self._quants
            values = tensors.dequantized(values, scales, zeros, axis, self._where)
        return tensors.rows(values, self.batch, self._where)

    def timed(self, frames: int, streams: int) -> Timed:
        """Have hrt_model_exec time, where the board has it."""
        return hrt_model_exec.timed(self._tool, frames, streams)

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Have hrt_model_exec profile frames of its own making; empty where the board does not have it."""
        return self._tool.layers(len(frames)) if self._tool else []

    def close(self) -> None:
        """Let every copy go."""
        self._free.clear()


def _name(enum: Any) -> str:
    """Return the name of a value of the binding's enums."""
    return str(getattr(enum, "name", enum))


def open_session(model: str, threads: int, suffix: str = ".hbm") -> HbmRuntime:
    """Load a .hbm on the S series, or a .bin (``suffix``) on X5.

    Raises:
        Unsuitable: this Python has no hbm_runtime, its libraries are not here, or it loads no file of that kind.
        Refused: it does not load the file, or the network is none that it can feed.
    """
    tensors.own_threads(threads, NAME)
    try:
        module = importlib.import_module(NAME)
        x5 = hasattr(module.hbDNNDataType, "NV12")
    except Exception as error:  # RuntimeError where libdnn is not there
        raise Unsuitable(
            f"this Python has no {NAME}: {error}", "it is in the system's python3, not in a virtual environment"
        ) from error
    if (suffix == ".bin") is not x5:
        raise Unsuitable(f"this board's {NAME} loads no {suffix}", _HINT)
    return HbmRuntime(module, model, hrt_model_exec.tool(model), suffix)


_HINT = "an artifact runs on the chip that it was compiled for, and no other: compile for this board's march"
