"""``hrt_model_exec``, the vendor's tool: runs a network if there is no Python runtime, and times one on any board.

It loads the network for each call, so timing it from outside would measure the loading: the latency comes from its own
``perf``, which generates its input. ``perf`` reports the fastest and the slowest frame only in its progress lines,
after every 200 frames, or at the end of fewer: counts above 200 are rounded up to a multiple.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..processes import find_tool, run_child
from . import hrt_profile, hrt_text, nv12, tensors
from .base import Layer, Refused, ToolTiming

NAME = "hrt_model_exec"
_PROGRESS_FRAMES = 200


class Tool:
    """The tool with a model file. Its processes end with this one, and are killed at their time limit."""

    def __init__(self, path: str, model: str) -> None:
        self._path, self._model = path, str(Path(model).resolve())

    def run(self, verb: str, flags: Sequence[str], folder: str, limit_s: float) -> str:
        """Run the tool in ``folder`` and return its output.

        Raises:
            Refused: it failed or timed out.
        """
        argv = [self._path, verb, f"--model_file={self._model}", *flags]
        try:
            done = run_child(argv, limit_s, stderr=subprocess.STDOUT, folder=folder)
        except subprocess.TimeoutExpired:
            raise Refused(f"{NAME} {verb} took longer than {limit_s:.0f} s and was killed", _SEE_LOG) from None
        except OSError as error:
            raise Refused(f"{NAME} does not start: {error}", "reinstall the board's runtime package") from None
        text = done.stdout.decode("utf-8", "replace")
        failure = hrt_text.failure(text)
        if failure is not None or done.returncode != 0:
            last = text.strip().splitlines()[-1:] or ["no output"]
            reason = failure or f"status {done.returncode}, {last[0]}"
            raise Refused(f"{NAME} {verb} failed: {reason}", tensors.WRONG_CHIP if "latform" in reason else _SEE_LOG)
        return text

    def info(self) -> hrt_text.ModelInfo:
        """Return the inputs and outputs of the model file."""
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            text = self.run("model_info", [], folder, 120.0)
        try:
            return hrt_text.model_info(text)
        except ValueError as error:
            raise Refused(f"cannot parse {NAME} model_info: {error}", _REPORT) from None

    def timed(self, frames: int, streams: int) -> ToolTiming:
        """Time at least ``frames`` frames with ``perf``."""
        count = _frame_count(frames)
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            flags = [f"--frame_count={count}", f"--thread_num={streams}"]
            text = self.run("perf", flags, folder, 60.0 + 2.0 * count)
        try:
            return parse_timing(text, count, streams)
        except ValueError as error:
            raise Refused(f"cannot parse {NAME} perf: {error}", _REPORT) from None

    def layers(self, frames: int) -> list[Layer]:
        """Return the time of each part, from the profiler of a separate ``perf`` run."""
        count = _frame_count(frames)
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            flags = [f"--frame_count={count}", "--thread_num=1", "--profile_path=."]
            self.run("perf", flags, folder, 60.0 + 2.0 * count)
            log = Path(folder, "profiler.log")
            if not log.is_file():
                raise Refused(f"{NAME} perf wrote no profiler.log", _REPORT)
            text = log.read_text(encoding="utf-8", errors="replace")
        try:
            return hrt_profile.layers(text, 1, count)
        except ValueError as error:
            raise Refused(f"cannot parse {NAME}'s profile: {error}", _REPORT) from None


def _frame_count(frames: int) -> int:
    """Return ``frames``, rounded up if needed for a progress line after the last frame."""
    step = _PROGRESS_FRAMES
    return frames if 0 < frames < step else max(1, -(-frames // step)) * step


def parse_timing(text: str, frames: int, streams: int) -> ToolTiming:
    """Parse the output of ``perf``.

    Raises:
        ValueError: it is malformed, or of another number of frames or streams, or has no min and max.
    """
    perf = hrt_text.perf(text)
    if perf.frames != frames or perf.streams != streams:
        raise ValueError(f"{perf.frames} frames ran in {perf.streams} threads, not {frames} in {streams}")
    if perf.min_ms is None or perf.max_ms is None:
        raise ValueError("no line has the fastest and the slowest frame")
    return ToolTiming(perf.frames, perf.streams, perf.mean_ms, perf.min_ms, perf.max_ms, perf.fps)


def find_tool_for(model: str) -> Tool | None:
    """Return the tool for a model, if the board has it."""
    path = find_tool(NAME)
    return Tool(path, model) if path else None


class ToolSession:
    """The part of a vendor session that is left to hrt_model_exec."""

    def __init__(self, tool: Tool | None) -> None:
        self._tool, self.has_tool = tool, tool is not None

    def reserve(self, streams: int) -> None:
        """Nothing to allocate."""

    def timed(self, frames: int, streams: int) -> ToolTiming:
        """Time with hrt_model_exec, or refuse if the board has none."""
        if self._tool is None:
            raise Refused(f"the board has no {NAME}", "install the board's tools, or measure frame by frame")
        return self._tool.timed(frames, streams)

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Profile generated frames, at least as many; empty if the board has no hrt_model_exec."""
        return self._tool.layers(len(frames)) if self._tool else []


class HrtModelExec(ToolSession):
    """A session that runs the tool for each frame, with files in a temporary folder."""

    driver = NAME
    times_frames = False
    parallel = False

    def __init__(self, tool: Tool, info: hrt_text.ModelInfo) -> None:
        """Refuse a network that is not an image classifier."""
        super().__init__(tool)
        self._run = tool.run
        self.runtime = f"{NAME}, libdnn {info.runtime}" if info.runtime else f"{NAME}, version unknown"
        self._format, self.batch, self._height, self._width = _input_format(info.inputs)
        if len(info.outputs) != 1:
            raise Refused(f"the network has {len(info.outputs)} outputs", tensors.ONE_OUTPUT)
        tensor = self._tensor = info.outputs[0]
        where, integers = f"the output {tensor.name}", tensor.kind != "F32"
        if tensor.kind not in tensors.DTYPES or (integers and not tensor.scales):
            raise Refused(f"{where} is {tensor.kind} with no scale", tensors.KEEP_DEQUANTIZE)
        scales = tensor.scales if integers else None
        dtype = tensors.DTYPES[tensor.kind]
        self._output = tensors.LogitsOutput(where, tensor.shape, dtype, self.batch, scales, tensor.zeros, tensor.axis)

    def prepare(self, pixels: Any) -> Any:
        """Return one array per input."""
        checked = tensors.checked(pixels, self.batch, self._height, self._width)
        if self._format == "packed":
            return (nv12.packed(checked),)
        if self._format == "planes":
            return nv12.planes(checked)
        return (tensors.to_layout(checked, self._format),)

    def infer(self, inputs: Any) -> Any:
        """Return the logits; most of the time is the tool's startup."""
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            names = []
            for index, array in enumerate(inputs):
                names.append(f"input{index}.bin")
                Path(folder, names[-1]).write_bytes(array.tobytes())
            flags = [f"--input_file={','.join(names)}", "--enable_dump=true", "--dump_format=bin"]
            self._run("infer", flags, folder, 120.0)
            dumps = [p for p in Path(folder).iterdir() if re.fullmatch(r"model_infer_output_0(_.*)?\.bin", p.name)]
            if len(dumps) != 1:
                raise Refused(f"{NAME} infer wrote {len(dumps)} files model_infer_output_0*.bin, not one", _REPORT)
            raw = dumps[0].read_bytes()
        return self._output.logits(_unpadded(raw, self._tensor, self._output))

    def close(self) -> None:
        """Nothing to free."""


def _input_format(inputs: Sequence[hrt_text.Tensor]) -> tuple[str, int, int, int]:
    """Return the input format (packed, planes, NHWC, NCHW), the batch size, and the image's height and width."""
    first, where = inputs[0], f"the input {inputs[0].name}"
    kinds = [tensor.kind for tensor in inputs]
    if kinds == ["NV12"]:
        batch, height, width = tensors.image_size(first.shape, first.layout or "", where)
        tensors.check_nv12(batch, height, width, where)
        return "packed", batch, height, width
    if kinds == ["RGB"]:
        layout = first.layout or ""
        return (layout, *tensors.image_size(first.shape, layout, where))
    if kinds == ["U8"] and len(first.shape) == 4 and first.layout is None:
        layout = "NHWC" if first.shape[3] == 3 else "NCHW"
        return (layout, *tensors.image_size(first.shape, layout, where))
    if kinds == ["U8", "U8"]:
        return ("planes", *tensors.two_planes([(t.name, t.shape) for t in inputs]))
    raise Refused(f"the network's inputs are {', '.join(kinds)}", tensors.NV12_OR_RGB)


def _unpadded(raw: bytes, tensor: hrt_text.Tensor, output: tensors.LogitsOutput) -> Any:
    """Return the values of a dump, which has either the valid ones only or the padding too."""
    dtype, shape, stride = output.dtype, output.shape, tensor.stride
    valid = math.prod(shape) * dtype.itemsize
    if len(raw) == valid:
        return np.frombuffer(raw, dtype).reshape(shape)
    if stride is not None and len(raw) == tensor.aligned_bytes and min(stride) >= dtype.itemsize:
        end = sum((side - 1) * step for side, step in zip(shape, stride)) + dtype.itemsize
        if end <= len(raw):
            return np.ndarray(shape, dtype, buffer=raw, strides=stride)
    raise Refused(f"the dump of {output.where} has {len(raw)} bytes, not {valid} or {tensor.aligned_bytes}", _REPORT)


def open_session(model: str, threads: int) -> HrtModelExec:
    """Open a model with the tool."""
    tensors.refuse_threads(threads, NAME)
    tool = find_tool_for(model)
    if tool is None:
        raise Refused(f"the board has no {NAME}", "install the board's runtime: its package board/install.sh has it")
    return HrtModelExec(tool, tool.info())


_SEE_LOG = f"run {NAME} on the board manually; its log has more"
_REPORT = f"this version of {NAME} is not supported; please report its output"
