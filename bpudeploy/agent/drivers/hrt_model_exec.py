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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..processes import find_tool, run_child
from . import hrt_profile, hrt_text, tensors
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

    def perf(self, folder: str, count: int, streams: int, *flags: str) -> str:
        """Run ``perf`` in ``folder`` and return its output."""
        flags = (f"--frame_count={count}", f"--thread_num={streams}", *flags)
        return self.run("perf", flags, folder, 60.0 + 2.0 * count)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bpudeploy-")


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Refused(f"cannot parse {what}: {error}", _REPORT) from None


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

    def close(self) -> None:
        """Nothing to free."""

    def timed(self, frames: int, streams: int) -> ToolTiming:
        """Time at least ``frames`` frames with ``perf``, or refuse if the board has no hrt_model_exec."""
        if self._tool is None:
            raise Refused(f"the board has no {NAME}", "install the board's tools, or measure frame by frame")
        count = _frame_count(frames)
        with _temporary_folder() as folder, _parsing(f"{NAME} perf"):
            return parse_timing(self._tool.perf(folder, count, streams), count, streams)

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Profile generated frames, at least as many; empty if the board has no hrt_model_exec."""
        if self._tool is None:
            return []
        count = _frame_count(len(frames))
        with _temporary_folder() as folder, _parsing(f"{NAME}'s profile"):
            self._tool.perf(folder, count, 1, "--profile_path=.")
            log = Path(folder, "profiler.log")
            if not log.is_file():
                raise Refused(f"{NAME} perf wrote no profiler.log", _REPORT)
            return hrt_profile.layers(log.read_text(encoding="utf-8", errors="replace"), 1, count)


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
        inputs = [(tensor.name, tensor.kind, tensor.shape, tensor.layout) for tensor in info.inputs]
        images = tensors.image_input(inputs, ("packed", "planes", "NHWC", "NCHW"), tensors.NV12_OR_RGB)
        self.batch, self.prepare = images.batch, images.arrays
        if len(info.outputs) != 1:
            raise Refused(f"the network has {len(info.outputs)} outputs", tensors.ONE_OUTPUT)
        out = self._tensor = info.outputs[0]
        where = f"the output {out.name}"
        self._output = tensors.LogitsOutput(where, out.kind, out.shape, self.batch, out.scales, out.zeros, out.axis)

    def infer(self, inputs: Any) -> Any:
        """Return the logits; most of the time is the tool's startup."""
        with _temporary_folder() as folder:
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
        return self._output.logits(_unpadded(raw, self._tensor, self._output), "infer")


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
    with _temporary_folder() as folder, _parsing(f"{NAME} model_info"):
        info = hrt_text.model_info(tool.run("model_info", [], folder, 120.0))
    return HrtModelExec(tool, info)


_SEE_LOG = f"run {NAME} on the board manually; its log has more"
_REPORT = f"this version of {NAME} is not supported; please report its output"
