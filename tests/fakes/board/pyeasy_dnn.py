"""The fake of X3's and X5's Python runtime, which differ.

As the bindings' public sources (dnn_python.cpp) have them; where those would read past a buffer, this raises."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import artifact, network
from .world import head, other_chip, print_head, world

_X5 = world().march == "bayes-e"
_LAYOUTS = {"nv12": "NCHW", "rgb-nchw": "NCHW", "rgb-nhwc": "NHWC"}


class TensorProperties:
    """tensor_type, dtype, layout, shape and scale_data, as text, a tuple and an array."""

    def __init__(self, kind: str, layout: str, shape: tuple[int, ...], scales: tuple[float, ...] = ()) -> None:
        """An image's dtype is uint8."""
        self.tensor_type, self.layout, self.shape = kind, layout, shape
        self.dtype = "uint8" if kind in ("NV12", "RGB") else kind
        self.scale_data = np.array(scales, dtype=np.float32)

    if _X5:

        @property
        def alignedShape(self) -> int:
            """X5's alone: a raw pointer, as the real one gives it."""
            return id(self.shape)


class pyDNNTensor:
    """A tensor of the model: its buffer is a copy, made when it is asked for."""

    def __init__(self, name: str, properties: TensorProperties, memory: list[Any]) -> None:
        """``memory`` is the model's own: the next frame is written over it."""
        self.name, self.properties, self._memory = name, properties, memory

    @property
    def buffer(self) -> Any:
        """Four sides; float32, int32 and int8 as they are; int16 too on X5, on X3 as int8 of half the bytes."""
        shape = self.properties.shape
        if not self._memory:
            return np.zeros(shape, np.int8)
        values = self._memory[0]
        if _X5 or values.dtype in (np.float32, np.int32, np.int8):
            return values.reshape(shape).copy()
        return values.reshape(-1).view(np.int8)[: values.size].reshape(shape).copy()


class Model:
    """One network."""

    def __init__(self, held: artifact.Artifact) -> None:
        """Prepare its tensors."""
        self.name, self._held, self.estimate_latency = held.name, held, 100
        self._memory: list[Any] = []
        n, h, w = held.batch, held.height, held.width
        layout = _LAYOUTS[held.input_type]
        shape = (n, 3, h, w) if layout == "NCHW" else (n, h, w, 3)
        kind = "NV12" if held.input_type == "nv12" else "RGB"
        self.inputs = [pyDNNTensor("pixels", TensorProperties(kind, layout, shape), [])]
        out = "NCHW" if held.output == "float32" else "NHWC"
        properties = TensorProperties(held.output, out, held.shape, held.scales)
        self.outputs = [pyDNNTensor("logits", properties, self._memory)]

    def forward(self, arg: Any, core_id: int = 0, priority: int = 0) -> Any:
        """Run one frame; when it failed, X3 gives None after saying why on the process's own output, X5 raises."""
        if not isinstance(arg, np.ndarray) or not np.can_cast(arg.dtype, np.uint8, "safe"):
            raise SystemError("<method 'forward' of 'dnnpy.Model' objects> returned a result with an exception set")
        size = arg.size if _X5 else arg.shape[0] * (arg.shape[1] if arg.ndim > 1 else 1)
        if size != network.size(self._held) or not arg.flags.c_contiguous:
            raise AssertionError(f"fake: {size} of {arg.shape} would be copied, {network.size(self._held)} are needed")
        board = world()
        if board.march != self._held.march or board.fail == "infer":
            print_head([*(other_chip(board.march) if board.march != self._held.march else []), "hbDNNInfer failed"])
            if _X5:
                raise SystemError("forward returned a result with an exception set") from RuntimeError(
                    "hbDNNInfer failed"
                )
            return None
        if _X5 and self._held.input_type != "nv12":
            arg[...] = np.maximum(arg, 128) - 128  # in the caller's own array
        self._memory[:] = [network.run(self._held, network.of_packed(self._held, arg.reshape(-1)), board)]
        return self.outputs


def load(model_file: str) -> list[Model]:
    """Load a file; the chip that it was compiled for is not looked at."""
    print_head(head(world().march))
    try:
        held = artifact.read(model_file)
    except (OSError, artifact.Broken):
        held = None
    if held is None or held.kind != "bin":
        failed = RuntimeError("hbDNNInitializeFromFiles failed")
        if _X5:
            raise SystemError("<built-in function load> returned a result with an exception set") from failed
        raise failed
    return [Model(held)]
