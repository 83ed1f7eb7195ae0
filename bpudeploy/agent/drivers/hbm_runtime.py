"""``hbm_runtime.HB_HBMRuntime``, the Python runtime of S100, S100P and S600 (.hbm), and of X5 since its OS 3.5 (.bin).

A runtime object runs one call at a time ("run() already in use", in the binding's public source): each thread that
calls ``infer`` in parallel gets its own object, loaded on first use or ahead by ``reserve``. A failure in the runtime's
own thread terminates the process. The first releases, and X5's, hold the GIL while they run: frames overlap only in
releases with ``compile_bpu_core_num``. X5's build is recognized by its tensor type NV12: its input is one packed array,
whose size the runtime does not check.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

import numpy as np

from . import tensors
from .base import Refused, Unsuitable
from .hrt_model_exec import Tool, ToolSession, find_tool_for

NAME = "hbm_runtime"
_ROW = 16
"""Bytes to which X5 aligns the rows of an NV12 image; the binding does not report it."""


class HbmRuntime(ToolSession):
    """A network in the vendor's Python runtime. Frames of several threads run in parallel, each in its own copy."""

    driver = NAME
    times_frames = True

    def __init__(self, module: Any, path: str, tool: Tool | None, suffix: str) -> None:
        """Load one copy; refuse a network that is not an image classifier."""
        super().__init__(tool)
        self._module, self._path, self._suffix = module, path, suffix
        self.parallel = hasattr(module.HB_HBMRuntime, "compile_bpu_core_num")
        self._lock = threading.Lock()
        first = self._load()
        self._free = [first]
        self.runtime = f"{NAME}, libdnn {getattr(module.HB_HBMRuntime, 'version', 'of unknown version')}"
        names = list(first.model_names)
        if len(names) != 1:
            raise Refused(f"the file has {len(names)} models", tensors.ONE_MODEL)
        self._name = names[0]
        self._images = self._read_inputs(first)
        self.batch = self._images.batch
        self._output = self._read_output(first)

    def _load(self) -> Any:
        """Load the file, under a name with the suffix that the runtime requires."""
        try:
            if not self._path.endswith(self._suffix):
                with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
                    link = os.path.join(folder, f"model{self._suffix}")
                    os.symlink(os.path.abspath(self._path), link)
                    return self._module.HB_HBMRuntime(link)
            return self._module.HB_HBMRuntime(self._path)
        except Exception as error:
            raise Refused(f"{NAME} cannot load the file: {error}", tensors.WRONG_CHIP) from error

    def _read_inputs(self, runtime: Any) -> tensors.ImageInput:
        names = self._inputs = list(runtime.input_names[self._name])
        shapes = [tuple(int(s) for s in runtime.input_shapes[self._name][name]) for name in names]
        kinds = [_name(runtime.input_dtypes[self._name][name]) for name in names]
        layouts = ["NCHW" if kind == "NV12" else None for kind in kinds]  # the binding reports none
        inputs = list(zip(names, kinds, shapes, layouts))
        hint = "build it with input_type_rt nv12, or rgb in NHWC"
        images = tensors.image_input(inputs, ("packed", "planes", "NHWC"), hint)
        if images.form == "packed" and images.width % _ROW:
            where = f"the input {names[0]}"
            raise Unsuitable(f"{where} is {images.width} pixels wide", f"use a multiple of {_ROW}: model.image_size")
        return images

    def _read_output(self, runtime: Any) -> tensors.LogitsOutput:
        names = list(runtime.output_names[self._name])
        if len(names) != 1:
            raise Refused(f"the network has {len(names)} outputs", tensors.ONE_OUTPUT)
        name = self._output_name = names[0]
        where, kind = f"the output {name}", _name(runtime.output_dtypes[self._name][name])
        scales, zeros, axis = (), (), None
        if kind != "F32":
            quants = runtime.output_quants[self._name][name]
            if _name(quants.quant_type) == "SCALE":
                scales, zeros = quants.scale, quants.zero_point
                axis = None if np.size(scales) == 1 else int(quants.axis)
        shape = [int(side) for side in runtime.output_shapes[self._name][name]]
        return tensors.LogitsOutput(where, kind, shape, self.batch, scales, zeros, axis)

    def reserve(self, streams: int) -> None:
        """Load a copy per stream, so that none is loaded during a stream's first frame."""
        while len(self._free) < streams:
            self._free.append(self._load())

    def prepare(self, pixels: Any) -> Any:
        """Return the inputs by name."""
        arrays = self._images.arrays(pixels)
        if self._images.form == "packed":
            arrays = (arrays[0].reshape(1, self._images.height * 3 // 2, self._images.width, 1),)
        return {self._name: dict(zip(self._inputs, arrays))}

    def infer(self, inputs: Any) -> Any:
        with self._lock:
            runtime = self._free.pop() if self._free else None
        runtime = runtime or self._load()
        try:
            values = np.array(runtime.run(inputs)[self._name][self._output_name])
        except Exception as error:
            raise Refused(f"run failed: {error}", tensors.WRONG_CHIP) from error
        finally:
            with self._lock:
                self._free.append(runtime)
        return self._output.logits(values, "run")

    def close(self) -> None:
        self._free.clear()


def _name(enum: Any) -> str:
    """Return the name of a value of the binding's enums."""
    return str(getattr(enum, "name", enum))


def open_session(model: str, threads: int, suffix: str = ".hbm") -> HbmRuntime:
    """Load a .hbm on the S series, or a .bin (``suffix``) on X5."""
    tensors.refuse_threads(threads, NAME)
    module = tensors.import_runtime(NAME, NAME)
    types = getattr(module, "hbDNNDataType", None)
    if types is None or (suffix == ".bin") is not hasattr(types, "NV12"):
        raise Unsuitable(f"this board's {NAME} loads no {suffix}", tensors.WRONG_CHIP)
    return HbmRuntime(module, model, find_tool_for(model), suffix)
