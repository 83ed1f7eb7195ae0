"""The fake of hbm_runtime, with the checks and the words of the binding's public source.

On the S series it loads .hbm, on X5 (x5-hobot-spdev 3.5.0) .bin: there NV12 is one packed array, whose size the real
one does not look at (it copies what fits); where that would be another picture, this raises.
"""

from __future__ import annotations

import enum
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from . import artifact, network
from .world import head, print_head, world

_X5 = world().march == "bayes-e"
_KIND = "bin" if _X5 else "hbm"
if _X5:
    _NAMES = "Y NV12 NV12_SEPARATE YUV444 RGB BGR S4 U4 S8 U8 F16 S16 U16 F32 S32 U32 F64 S64 U64 MAX"
else:
    _NAMES = "S4 U4 S8 U8 F16 S16 U16 F32 S32 U32 F64 S64 U64 BOOL8 MAX"
hbDNNDataType: Any = enum.Enum("hbDNNDataType", _NAMES, start=0)  # type: ignore[misc]
hbDNNQuantiType = enum.Enum("hbDNNQuantiType", "NONE SCALE", start=0)
_TYPES = {"float32": "F32", "int8": "S8", "int16": "S16", "int32": "S32"}


class QuantParams:
    """scale, zero_point, quant_type and axis."""

    def __init__(self, scales: tuple[float, ...]) -> None:
        """No scales: not quantized."""
        self.scale, self.zero_point = np.array(scales, np.float32), np.zeros(len(scales), np.int32)
        self.quant_type = hbDNNQuantiType["SCALE" if scales else "NONE"]
        self.axis = 1 if len(scales) > 1 else 0


class HB_HBMRuntime:
    """One file; everything is nested by the model's name. Not reentrant."""

    version = "3.3.3_(4.1.17 HBRT)"
    if not _X5:
        compile_bpu_core_num = 1

    def __init__(self, model_file: str) -> None:
        """Refuse what is not there, has another ending, or is for another chip."""
        if not Path(model_file).exists():
            raise RuntimeError(f"The input hbm model {model_file} does not exist.")
        if not model_file.endswith(f".{_KIND}"):
            raise RuntimeError(f"Invalid model file extension. Only .{_KIND} supported.")
        board = world()
        print_head(head(board.march))
        try:
            held = artifact.read(model_file)
        except artifact.Broken:
            held = None
        if held is None or held.kind != _KIND or held.march != board.march:
            wrong = "hbDNN initialize from " + model_file + " file failed."
            raise RuntimeError(f"DNN Error (code: -600001, desc: Load model failed) {wrong}")
        self._held, self._busy = held, threading.Lock()
        self.model_names, self.model_count = [held.name], 1
        n, h, w = held.batch, held.height, held.width
        shapes = {
            "nv12": {"pixels_y": [n, h, w, 1], "pixels_uv": [n, h // 2, w // 2, 2]},
            "rgb-nhwc": {"pixels": [n, h, w, 3]},
            "rgb-nchw": {"pixels": [n, 3, h, w]},
        }[held.input_type]
        kind = hbDNNDataType["U8"]
        if _X5:
            shapes, kind = {"pixels": [n, 3, h, w]}, hbDNNDataType["NV12" if held.input_type == "nv12" else "RGB"]
        self.input_names, self.input_shapes = {held.name: list(shapes)}, {held.name: shapes}
        self.input_dtypes = {held.name: dict.fromkeys(shapes, kind)}
        self.input_quants = {held.name: {name: QuantParams(()) for name in shapes}}
        self.output_names, self.output_shapes = {held.name: ["logits"]}, {held.name: {"logits": list(held.shape)}}
        self.output_dtypes = {held.name: {"logits": hbDNNDataType[_TYPES[held.output]]}}
        self.output_quants = {held.name: {"logits": QuantParams(held.scales)}}

    def run(self, multi_input_tensors: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Run one frame of inputs nested by model and name."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("run() already in use")
        try:
            for model, inputs in multi_input_tensors.items():
                if model != self._held.name:
                    raise RuntimeError(f'Model name "{model}" is not in the registered model_names.')
                for name in inputs:
                    if name not in self.input_names[model]:
                        raise RuntimeError(f'Input name "{name}" is invalid for model "{model}".')
            return {model: {"logits": self._infer(model, inputs)} for model, inputs in multi_input_tensors.items()}
        finally:
            self._busy.release()

    def _infer(self, model: str, inputs: dict[str, Any]) -> Any:
        board, held = world(), self._held
        if board.fail == "infer":
            os.abort()  # thrown in a thread of the runtime's own, it ends the process
        if _X5:
            return network.run(held, self._packed(inputs["pixels"]), board)
        for name, expected in self.input_shapes[model].items():
            array = inputs.get(name, np.zeros(0))
            if array.dtype.char != "B":
                raise RuntimeError(
                    f"Data type mismatch for input tensor '{name}' in model '{model}': expected numpy dtype format "
                    f"'B', but received '{array.dtype.char}'"
                )
            if array.ndim != len(expected):
                raise RuntimeError(
                    f"Mismatch in tensor dimensions for model: {model}, input: {name}, input data ndim = {array.ndim}, "
                    f"model numDimensions = {len(expected)}"
                )
            for i, (side, wanted) in enumerate(zip(array.shape, expected, strict=True)):
                if side != wanted:
                    raise RuntimeError(
                        f"Mismatch in tensor dimension at index {i} for model: {model}, input: {name}. "
                        f"input data dim = {side}, model expected dim = {wanted}"
                    )
        if held.input_type == "nv12":
            pictures = network.rgb(inputs["pixels_y"], inputs["pixels_uv"])
        else:
            pictures = network.of_plain(held, inputs["pixels"])
        return network.run(held, pictures, board)

    def _packed(self, array: Any) -> Any:
        if array.dtype.char != "B" or not array.flags.c_contiguous or array.size != network.size(self._held):
            raise AssertionError(f"fake: {array.dtype} of {array.shape}, {network.size(self._held)} bytes are needed")
        return network.of_packed(self._held, array.reshape(-1))
