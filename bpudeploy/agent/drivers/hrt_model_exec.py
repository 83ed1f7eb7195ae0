"""``hrt_model_exec``, the vendor's tool: it runs a network where there is no Python runtime, and times one anywhere.

It loads the network anew for each call, so a latency seen from here would be the loader's: only its own ``perf`` says
what a frame takes. ``perf`` runs frames of its own making, and says the fastest and the slowest only in its progress,
after every 200 frames, or at the end of fewer: above 200 a multiple of it is asked for.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tied import die_with_parent
from . import hrt_profile, hrt_text, nv12, tensors
from .base import Layer, Refused, Timed

NAME = "hrt_model_exec"
_PLACES = ("/usr/hobot/bin",)
_STEP = 200
_DTYPES = {"F32": "<f4", "S8": "|i1", "U8": "|u1", "S16": "<i2", "U16": "<u2", "S32": "<i4"}


def find() -> str | None:
    """Return where the tool is; None where it is not."""
    return shutil.which(NAME) or shutil.which(NAME, path=os.pathsep.join(_PLACES))


class Tool:
    """The tool and a model file. Its children end with this process, and are killed at their limit."""

    def __init__(self, path: str, model: str) -> None:
        """``path`` is the executable."""
        self._path, self._model = path, str(Path(model).resolve())

    def run(self, verb: str, flags: Sequence[str], folder: str, limit_s: float) -> str:
        """Return what it printed, run in ``folder``.

        Raises:
            Refused: it failed, or took longer than its limit.
        """
        argv = [self._path, verb, f"--model_file={self._model}", *flags]
        tie = functools.partial(die_with_parent, os.getpid())
        try:
            ended = subprocess.run(
                argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
                preexec_fn=tie,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"{NAME} {verb} took longer than {limit_s:.0f} s and was killed", _LOOK) from None
        except OSError as error:
            raise Refused(f"{NAME} does not start: {error}", "install the board's runtime package again") from None
        text = ended.stdout.decode("utf-8", "replace")
        wrong = hrt_text.failure(text)
        if wrong is not None or ended.returncode != 0:
            last = text.strip().splitlines()[-1:] or ["nothing"]
            said = wrong or f"status {ended.returncode}, {last[0]}"
            raise Refused(f"{NAME} {verb} failed: {said}", _OTHER_CHIP if "latform" in said else _LOOK)
        return text

    def info(self) -> hrt_text.ModelInfo:
        """Return what the model file holds."""
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            text = self.run("model_info", [], folder, 120.0)
        try:
            return hrt_text.model_info(text)
        except ValueError as error:
            raise Refused(f"{NAME} model_info is not understood: {error}", _NEW) from None

    def timed(self, frames: int, streams: int) -> Timed:
        """Return what ``perf`` says of at least ``frames`` frames."""
        count = _whole(frames)
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            flags = [f"--frame_count={count}", f"--thread_num={streams}"]
            text = self.run("perf", flags, folder, 60.0 + 2.0 * count)
        try:
            return timed_of(text, count, streams)
        except ValueError as error:
            raise Refused(f"{NAME} perf is not understood: {error}", _NEW) from None

    def layers(self, frames: int) -> list[Layer]:
        """Return what each part takes, as the profiler of a run of its own says."""
        count = _whole(frames)
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            flags = [f"--frame_count={count}", "--thread_num=1", "--profile_path=."]
            self.run("perf", flags, folder, 60.0 + 2.0 * count)
            log = Path(folder, "profiler.log")
            if not log.is_file():
                raise Refused(f"{NAME} perf wrote no profiler.log", _NEW)
            text = log.read_text(encoding="utf-8", errors="replace")
        try:
            return hrt_profile.layers(text, 1, count)
        except ValueError as error:
            raise Refused(f"{NAME}'s profile is not understood: {error}", _NEW) from None


def _whole(frames: int) -> int:
    """Return a number of frames whose last one perf prints the progress of: ``frames``, or the next that is."""
    return frames if 0 < frames < _STEP else max(1, -(-frames // _STEP)) * _STEP


def timed_of(text: str, frames: int, streams: int) -> Timed:
    """Return ``perf``'s answer to what was asked.

    Raises:
        ValueError: it is not understood, or it answers something else.
    """
    said = hrt_text.perf(text)
    if said.frames != frames or said.streams != streams:
        raise ValueError(f"{said.frames} frames ran in {said.streams} threads, not {frames} in {streams}")
    if said.min_ms is None or said.max_ms is None:
        raise ValueError("no line says the fastest and the slowest frame")
    return Timed(said.frames, said.streams, said.mean_ms, said.min_ms, said.max_ms, said.fps)


def tool(model: str) -> Tool | None:
    """Return the tool for a model, where the board has it."""
    path = find()
    return Tool(path, model) if path else None


def timed(of: Tool | None, frames: int, streams: int) -> Timed:
    """Have the tool time, or refuse where there is none."""
    if of is None:
        raise Refused(f"the board has no {NAME}", "install the board's tools, or measure frame by frame")
    return of.timed(frames, streams)


class HrtModelExec:
    """A session that has the tool run each frame, from files in a folder that is gone afterwards."""

    driver = NAME
    times_frames = False
    parallel = False
    has_tool = True

    def __init__(self, own: Tool, info: hrt_text.ModelInfo) -> None:
        """Refuse a network that is no classifier of pictures."""
        self._tool = own
        self.runtime = f"{NAME}, libdnn {info.runtime}" if info.runtime else f"{NAME}, version not told"
        self._form, self.batch, self._height, self._width = _form(info.inputs)
        if len(info.outputs) != 1:
            raise Refused(f"the network has {len(info.outputs)} outputs", "only classifiers are evaluated: one output")
        self._output = info.outputs[0]
        self._where = f"the output {self._output.name}"
        self._axis = tensors.classes_axis(self._output.shape, self.batch, self._where)
        if self._output.kind not in _DTYPES or (self._output.kind != "F32" and not self._output.scales):
            raise Refused(f"{self._where} is {self._output.kind} with no scale", "keep the network's last Dequantize")

    def prepare(self, pixels: Any) -> Any:
        """Return one array for each input."""
        checked = tensors.checked(pixels, self.batch, self._height, self._width)
        if self._form == "packed":
            return (nv12.packed(checked),)
        if self._form == "planes":
            return nv12.planes(checked)
        return (tensors.ordered(checked, self._form),)

    def infer(self, fed: Any) -> Any:
        """Return the logits; the time that this takes is mostly the tool's start."""
        with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
            names = []
            for index, array in enumerate(fed):
                names.append(f"input{index}.bin")
                Path(folder, names[-1]).write_bytes(array.tobytes())
            flags = [f"--input_file={','.join(names)}", "--enable_dump=true", "--dump_format=bin"]
            self._tool.run("infer", flags, folder, 120.0)
            dumps = [p for p in Path(folder).iterdir() if re.fullmatch(r"model_infer_output_0(_.*)?\.bin", p.name)]
            if len(dumps) != 1:
                raise Refused(f"{NAME} infer left {len(dumps)} files model_infer_output_0*.bin, not one", _NEW)
            raw = dumps[0].read_bytes()
        return self._logits(raw)

    def _logits(self, raw: bytes) -> Any:
        dtype, shape = np.dtype(_DTYPES[self._output.kind]), self._output.shape
        values = _unpadded(raw, dtype, shape, self._output, self._where)
        if self._output.kind != "F32":
            axis = self._axis if self._output.axis is None else self._output.axis
            values = tensors.dequantized(values, self._output.scales, self._output.zeros, axis, self._where)
        return tensors.rows(values, self.batch, self._where)

    def reserve(self, streams: int) -> None:
        """The tool's own threads load what they need."""

    def timed(self, frames: int, streams: int) -> Timed:
        """Have ``perf`` run."""
        return self._tool.timed(frames, streams)

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Have ``perf`` profile frames of its own making, as many or more."""
        return self._tool.layers(len(frames))

    def close(self) -> None:
        """Nothing is held between calls."""


def _form(inputs: Sequence[hrt_text.Tensor]) -> tuple[str, int, int, int]:
    """Return how pictures are fed (packed, planes, NHWC, NCHW), the batch, and the picture's height and width."""
    first, where = inputs[0], f"the input {inputs[0].name}"
    kinds = [tensor.kind for tensor in inputs]
    if kinds == ["NV12"]:
        batch, height, width = tensors.picture(first.shape, first.layout or "", where)
        tensors.one_nv12(batch, height, width, where)
        return "packed", batch, height, width
    if kinds == ["RGB"]:
        layout = first.layout or ""
        return (layout, *tensors.picture(first.shape, layout, where))
    if kinds == ["U8"] and len(first.shape) == 4 and first.layout is None:
        layout = "NHWC" if first.shape[3] == 3 else "NCHW"
        return (layout, *tensors.picture(first.shape, layout, where))
    if kinds == ["U8", "U8"]:
        return ("planes", *two_planes([(t.name, t.shape) for t in inputs]))
    raise Refused(f"the network's inputs are {', '.join(kinds)}", "build it with input_type_rt nv12 or rgb")


def two_planes(inputs: Sequence[tuple[str, Sequence[int]]]) -> tuple[int, int, int]:
    """Return batch, height and width of NV12 in two inputs, Y first; refuse what is not that."""
    (y, luma), (uv, chroma) = inputs
    if y.endswith("_y") and uv.endswith("_uv") and y[:-2] == uv[:-3] and len(luma) == 4 and luma[3] == 1:
        batch, height, width = luma[0], luma[1], luma[2]
        tensors.even(height, width, f"the input {y}")
        if tuple(chroma) == (batch, height // 2, width // 2, 2):
            return batch, height, width
    raise Refused(
        f"the inputs {y} {tuple(luma)} and {uv} {tuple(chroma)} are not the Y and the UV of NV12",
        "build the network with input_type_rt nv12 or rgb",
    )


def _unpadded(raw: bytes, dtype: Any, shape: tuple[int, ...], output: hrt_text.Tensor, where: str) -> Any:
    """Return the values of a dump, which holds the valid ones only, or all that were aligned."""
    valid = int(np.prod(shape)) * dtype.itemsize
    if len(raw) == valid:
        return np.frombuffer(raw, dtype).reshape(shape)
    if output.stride is not None and len(raw) == output.aligned_bytes and min(output.stride) >= dtype.itemsize:
        reach = sum((side - 1) * step for side, step in zip(shape, output.stride)) + dtype.itemsize
        if reach <= len(raw):
            return np.ndarray(shape, dtype, buffer=raw, strides=output.stride).copy()
    raise Refused(f"the dump of {where} has {len(raw)} bytes, not {valid} nor {output.aligned_bytes}", _NEW)


def open_session(model: str, threads: int) -> HrtModelExec:
    """Open a model with the tool.

    Raises:
        Refused: there is no tool, or the network is none that it can feed.
    """
    tensors.own_threads(threads, NAME)
    own = tool(model)
    if own is None:
        raise Refused(f"the board has no {NAME}", "install the board's runtime: its package board/install.sh has it")
    return HrtModelExec(own, own.info())


_LOOK = f"run {NAME} on the board by hand; its log says more"
_NEW = f"this {NAME} prints what bpudeploy does not know; report it with what it printed"
_OTHER_CHIP = "the artifact is for another chip: compile for this board's march"
