"""``pyeasy_dnn`` of hobot_dnn, the Python runtime of X3, X5 and Ultra; hobot_dnn_rdkx5 on PyPI is that of X5.

From the bindings' public source (dnn_python.cpp): ``forward`` does not check the input's size; it copies as many bytes
as the product of the array's first two dimensions on X3, and of all its dimensions on X5. Only a flat array of exactly
the right length is safe on both. It holds the GIL while the BPU runs, and writes into buffers of the model: frames
never overlap, and each output is copied before the next. X3's returns garbage for int16 outputs (an int8 view). X5's
subtracts 128 from an RGB array in place and clamps at 0, which loses all darker values, so RGB is refused there; X5's
is recognized by the property ``alignedShape``.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from . import tensors
from .base import Refused, Unsuitable
from .hrt_model_exec import Tool, ToolSession, find_tool_for

NAME = "hobot_dnn"


class HobotDnn(ToolSession):
    """A network in the vendor's Python runtime. Calls of ``infer`` from several threads run one after another."""

    driver = NAME
    times_frames = True
    parallel = False

    def __init__(self, model: Any, tool: Tool | None, package: str) -> None:
        """Refuse a network that is not an image classifier."""
        super().__init__(tool)
        self._model, self._lock = model, threading.Lock()
        self.runtime = _version(package)
        inputs, outputs = list(model.inputs), list(model.outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise Refused(f"the network has {len(inputs)} inputs and {len(outputs)} outputs", tensors.ONE_OUTPUT)
        given = inputs[0].properties
        layout, kind, shape = str(given.layout), str(given.tensor_type), tuple(int(side) for side in given.shape)
        if kind not in ("NV12", "RGB") or str(given.dtype) != "uint8":
            found = f"the input is {kind} of {given.dtype}, shape {shape}, layout {layout}"
            raise Refused(found, tensors.NV12_OR_RGB)
        if kind == "RGB" and hasattr(type(given), "alignedShape"):
            raise Unsuitable("X5's hobot_dnn sets RGB values below 128 to 0", "build with input_type_rt nv12")
        self._images = tensors.image_input([("", kind, shape, layout)], ("packed", "NHWC", "NCHW"), tensors.NV12_OR_RGB)
        self.batch = self._images.batch
        self._output = self._read_output(outputs[0].properties)

    def _read_output(self, given: Any) -> tensors.LogitsOutput:
        shape, dtype = tuple(int(side) for side in given.shape), str(given.dtype)
        kind = {"int8": "S8", "int32": "S32", "float32": "F32"}.get(dtype)
        if kind is None:
            raise Refused(f"the output is {dtype}", tensors.KEEP_DEQUANTIZE)
        scales = () if kind == "F32" else given.scale_data
        output = tensors.LogitsOutput("the output", kind, shape, self.batch, scales)
        if kind != "F32" and output.classes_axis != len(shape) - 1:
            found = f"the output is {dtype} {shape}, and the binding does not report its row padding"
            raise Refused(found, tensors.KEEP_DEQUANTIZE)
        return output

    def prepare(self, pixels: Any) -> Any:
        """Return flat bytes, as the binding needs them."""
        (array,) = self._images.arrays(pixels)
        return array.reshape(-1)

    def infer(self, inputs: Any) -> Any:
        with self._lock:
            try:
                outputs = self._model.forward(inputs)
            except Exception as error:
                raise Refused(f"forward failed: {error.__cause__ or error}", tensors.WRONG_CHIP) from error
            if not outputs:  # on failure it prints the reason and returns None
                raise Refused("forward failed; see the runtime's log", tensors.WRONG_CHIP)
            values = np.array(outputs[0].buffer)
        if values.size == math.prod(self._output.shape):
            values = values.reshape(self._output.shape)
        return self._output.logits(values, "forward")

    def close(self) -> None:
        self._model = None


def _version(package: str) -> str:
    try:
        from importlib.metadata import version

        return f"{package} {version(package)}"
    except Exception:
        return f"{package}, version unknown"


def open_session(model: str, threads: int, package: str = NAME) -> HobotDnn:
    """Load a .bin with ``package``: hobot_dnn or hobot_dnn_rdkx5."""
    tensors.refuse_threads(threads, package)
    pyeasy_dnn = tensors.import_runtime(package, f"{package}.pyeasy_dnn")
    try:
        models = pyeasy_dnn.load(model)
    except Exception as error:
        raise Refused(f"{package} cannot load the file: {error.__cause__ or error}", tensors.WRONG_CHIP) from error
    if not models or len(models) != 1:
        raise Refused(f"the file has {len(models or [])} models", tensors.ONE_MODEL)
    return HobotDnn(models[0], find_tool_for(model), package)
