"""Strict parsers for the output of ``hrt_model_exec``: an unknown line is a ValueError that quotes it.

Leading console output (versions, warnings, load time) is skipped. Lines with used numbers must be complete, and
redundant numbers must be consistent.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from re import Match

_NUMBER = r"\d+\.\d+"


@dataclass(frozen=True)
class Tensor:
    """One input or output in model_info. ``kind`` is NV12, RGB, U8, S32, F32 ...; strides are in bytes.

    ``stride`` and ``aligned_bytes`` are -1 if the caller may choose.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    layout: str | None
    aligned_shape: tuple[int, ...] | None
    aligned_bytes: int
    stride: tuple[int, ...] | None
    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    axis: int | None


@dataclass(frozen=True)
class ModelInfo:
    """Content of a model file."""

    model: str
    runtime: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Perf:
    """Result of ``perf``; min and max are None in the condensed form in the vendor's READMEs (no progress line)."""

    frames: int
    streams: int
    mean_ms: float
    min_ms: float | None
    max_ms: float | None
    fps: float


_PLATFORM = re.compile("Incompatible Platform|platform march")
_FAILURE = re.compile(
    r"(?i:Incompatible Platform|platform march|\bfailed\b|error code|unknown command line flag)"
    r"|^(\[E\]|E\d{4} |ERROR\b)"
)


def failure(text: str) -> str | None:
    """Return the line that reports a failure, preferably a wrong chip, or None. The exit status is not reliable."""
    failures = [line.strip() for line in text.splitlines() if _FAILURE.search(line.strip())]
    return next(filter(_PLATFORM.search, failures), next(iter(failures), None))


def runtime_of(text: str) -> str | None:
    """Return the version of the runtime library, from the log's first lines."""
    match = re.search(r"\[DNN\](?: Runtime version =|:) (\d+\.\d+\S*_\([\d.]+ HBRT\))", text)
    return match.group(1) if match else None


# perf ----------------------------------------------------------------------------------------------------------------

_PROGRESS = re.compile(
    rf"Frame count: (\d+),  Thread Average: ({_NUMBER}) ms,  thread max latency: ({_NUMBER}) ms,  "
    rf"thread min latency: ({_NUMBER}) ms,  FPS: ({_NUMBER})"
)
_SUMMARY = re.compile(
    r"(?:- )?(?:"
    r"Thread number is: (?P<streams>\d+)"
    r"|Frame count\s+is: (?P<frames>\d+)"
    r"|core number\s+is: (?P<cores>\d+)"
    rf"|Program run time: (?P<run>{_NUMBER}) ms"
    r"|(?P<result>Perf result:)"
    rf"|Frame totally latency is: (?P<total>{_NUMBER}) ms"
    rf"|Average\s+latency\s+is: (?P<mean>{_NUMBER}) ms"
    rf"|Frame\s+rate\s+is: (?P<fps>{_NUMBER}) FPS)"
)
_OPTIONAL = {"cores", "run"}


def perf(text: str) -> Perf:
    """Parse the output of ``perf`` on X3, X5 or the S series, or in the condensed form of the vendor's READMEs.

    Raises:
        ValueError: a line is malformed, or numbers are inconsistent.
    """
    progress: Match[str] | None = None
    summary: dict[str, str] = {}
    in_summary = False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line == "Running condition:":
            if in_summary:
                raise ValueError(f"line {number}: a second result")
            in_summary = True
        elif in_summary and line:
            found = _SUMMARY.fullmatch(line)
            if not found:
                raise ValueError(f"line {number}: cannot parse {line!r}")
            if found.lastgroup in summary:
                raise ValueError(f"line {number}: duplicate {line!r}")
            summary.update({name: value for name, value in found.groupdict().items() if value is not None})
        elif re.search("Frame count|latency|FPS", line):
            progress = _PROGRESS.fullmatch(line)
            if not progress:
                raise ValueError(f"line {number}: cannot parse {line!r}")
    missing = set(_SUMMARY.groupindex) - set(summary) - _OPTIONAL
    if missing:
        raise ValueError(f"perf printed no line of {', '.join(sorted(missing))}")
    high, low = map(float, progress.group(3, 4)) if progress else (None, None)
    frames, streams = int(summary["frames"]), int(summary["streams"])
    result = Perf(frames, streams, float(summary["mean"]), low, high, float(summary["fps"]))
    _check_consistency(result, summary, progress)
    return result


def _check_consistency(found: Perf, summary: dict[str, str], progress: Match[str] | None) -> None:
    """Check frames, mean and rate, each of which is printed more than once."""
    if not (found.frames > 0 and found.streams > 0 and found.mean_ms > 0 and found.fps > 0):
        raise ValueError("perf ran nothing")
    mean = float(summary["total"]) / found.frames
    if abs(mean - found.mean_ms) > 0.0011 + 1e-4 * mean:
        raise ValueError(
            f"inconsistent perf output: {summary['total']} ms over {found.frames} frames, {summary['mean']} each"
        )
    if "run" in summary and abs(found.frames / float(summary["run"]) * 1000 / found.fps - 1) > 0.02:
        raise ValueError(
            f"inconsistent perf output: {found.frames} frames in {summary['run']} ms, {summary['fps']} FPS"
        )
    in_flight(found.fps, found.mean_ms, found.streams)
    if progress:
        count, last, rate = int(progress.group(1)), float(progress.group(2)), float(progress.group(5))
        if count != found.frames or abs(last - found.mean_ms) > 0.0011 or abs(rate / found.fps - 1) > 0.05:
            raise ValueError(f"inconsistent perf output: {progress.group(0)!r} is not of the last frame")
    low, high = found.min_ms, found.max_ms
    if low is not None and high is not None and not low - 0.001 <= found.mean_ms <= high + 0.001:
        raise ValueError(f"inconsistent perf output: min {low}, average {found.mean_ms}, max {high} ms")


def in_flight(fps: float, mean_ms: float, streams: int) -> None:
    """Check that rate * latency, the number of frames in flight, fits the number of threads."""
    frames = fps * mean_ms / 1000
    if not 0.75 * streams <= frames <= 1.02 * streams + 0.001:
        raise ValueError(f"{fps} FPS at {mean_ms} ms is {frames:.2f} frames in flight, but {streams} threads ran")


# model_info ----------------------------------------------------------------------------------------------------------

_FIELDS = {
    *("name", "input source", "valid shape", "aligned shape", "aligned byte size", "tensor type", "tensor layout"),
    *("quanti type", "stride", "scale data", "zero_point data", "shift data", "quantizeAxis"),
}
_KIND = re.compile(
    r"HB_DNN_IMG_TYPE_(Y|NV12|NV12_SEPARATE|YUV444|RGB|BGR)"
    r"|HB_DNN_TENSOR_TYPE_(S4|U4|S8|U8|F16|S16|U16|F32|S32|U32|F64|S64|U64|BOOL8)"
)
_WIDTH = {"F16": 2, "S16": 2, "U16": 2, "F32": 4, "S32": 4, "U32": 4, "F64": 8, "S64": 8, "U64": 8}


def model_info(text: str) -> ModelInfo:
    """Parse the output of ``model_info`` for a file with one model.

    Raises:
        ValueError: a line is malformed, or there is not exactly one model.
    """
    names: list[str] = []
    listed: list[str] = []
    blocks: list[tuple[str, dict[str, str]]] = []
    declared = closed = False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("[model name]: "):
            names.append(line[len("[model name]: ") :])
        elif not names:
            declared = declared or line == "This model file has 1 model:"
            listed += [line[1:-1]] if line.startswith("[") and line.endswith("]") else []
        elif closed and line:
            raise ValueError(f"line {number}: {line!r} after the model's end")
        elif re.fullmatch(r"-{20,}", line):
            closed = True
        elif re.fullmatch(r"(input|output)\[\d+\]:", line):
            blocks.append((line, {}))
        elif line:
            _field(blocks, line, number)
    if len(names) != 1 or names != listed[-1:] or not declared or not closed:
        raise ValueError("model_info is truncated, or does not describe exactly one model")
    sides: dict[str, list[Tensor]] = {"input": [], "output": []}
    for title, fields in blocks:
        side, index = title[:-2].split("[")
        if (sides["output"] and side == "input") or len(sides[side]) != int(index):
            raise ValueError(f"model_info lists {title} out of order")
        sides[side].append(_tensor(title, fields))
    if not sides["input"] or not sides["output"]:
        raise ValueError("model_info lists no inputs or no outputs")
    if len({tensor.layout is None for side in sides.values() for tensor in side}) != 1:
        raise ValueError("model_info has layouts for some tensors only")
    return ModelInfo(names[0], runtime_of(text), tuple(sides["input"]), tuple(sides["output"]))


def _field(blocks: list[tuple[str, dict[str, str]]], line: str, number: int) -> None:
    key, colon, value = line.partition(": ")
    if not blocks or not colon or key not in _FIELDS or key in blocks[-1][1]:
        raise ValueError(f"line {number}: cannot parse {line!r}")
    blocks[-1][1][key] = value


def _tensor(title: str, fields: dict[str, str]) -> Tensor:
    """Return one tensor; a .bin has an aligned shape and a layout, a .hbm neither, and -1 for the caller's choice."""
    for key in ("name", "valid shape", "aligned byte size", "tensor type", "quanti type", "stride"):
        if key not in fields:
            raise ValueError(f"{title} of model_info has no {key!r}")
    if ("aligned shape" in fields) != ("tensor layout" in fields):
        raise ValueError(f"{title} of model_info has an aligned shape or a layout, not both")
    kind = _KIND.fullmatch(fields["tensor type"])
    layout = re.fullmatch(r"HB_DNN_LAYOUT_(NCHW|NHWC|NONE)", fields.get("tensor layout", ""))
    if not kind:
        raise ValueError(f"{title} of model_info has the tensor type {fields['tensor type']!r}")
    if "tensor layout" in fields and not layout:
        raise ValueError(f"{title} of model_info has the layout {fields['tensor layout']!r}")
    if not re.fullmatch(r"-1|\d+", fields["aligned byte size"]):
        raise ValueError(f"{title} of model_info has {fields['aligned byte size']!r} bytes")
    shape, stride = _shape(title, fields["valid shape"]), _shape(title, fields["stride"])
    scales, zeros, axis = _scale(title, fields, shape)
    found = Tensor(
        name=fields["name"],
        shape=shape,
        kind=kind[1] or kind[2],
        layout=layout.group(1) if layout else None,
        aligned_shape=_shape(title, fields["aligned shape"]) if "aligned shape" in fields else None,
        aligned_bytes=int(fields["aligned byte size"]),
        stride=stride,
        scales=scales,
        zeros=zeros,
        axis=axis,
    )
    _check_sizes(title, found)
    return found


def _scale(
    title: str, fields: dict[str, str], shape: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[int, ...], int | None]:
    """Return scales, zero points unless all are 0, and the axis if there is more than one scale."""
    quanti = fields["quanti type"]
    if quanti not in ("NONE", "SCALE", "SHIFT") or ("scale data" in fields) != (quanti == "SCALE"):
        raise ValueError(f"{title} of model_info is quantized by {quanti!r}")
    if quanti != "SCALE":
        return (), (), None
    if "tensor layout" not in fields and "zero_point data" not in fields:
        raise ValueError(f"{title} of model_info has a scale but no zero point")
    scales = [float(word) for word in _words(title, fields["scale data"], r"\d+(\.\d+)?(e[-+]?\d+)?")]
    zeros = [int(word) for word in _words(title, fields.get("zero_point data", "()"), r"-?\d+")]
    if zeros and len(zeros) != len(scales):
        raise ValueError(f"{title} of model_info has {len(scales)} scales and {len(zeros)} zero points")
    if len(scales) == 1:
        return tuple(scales), tuple(zeros) if any(zeros) else (), None
    axis = fields.get("quantizeAxis", "")
    if not re.fullmatch(r"\d", axis) or int(axis) >= len(shape) or len(scales) != shape[int(axis)]:
        raise ValueError(f"{title} of model_info has {len(scales)} scales along axis {axis!r} of {shape}")
    return tuple(scales), tuple(zeros) if any(zeros) else (), int(axis)


def _check_sizes(title: str, tensor: Tensor) -> None:
    """Check that the sizes are consistent."""
    shape, aligned = tensor.shape, tensor.aligned_shape
    same = tensor.stride is not None and len(tensor.stride) == len(shape)
    if min(shape) < 1 or not same or (aligned is not None and len(aligned) != len(shape)):
        raise ValueError(f"{title} of model_info: {shape}, {aligned} and {tensor.stride} are inconsistent")
    if aligned is not None and any(a < s for a, s in zip(aligned, shape)):
        raise ValueError(f"{title} of model_info has the shape {shape}, aligned to {aligned}")
    least = math.prod(shape) * _WIDTH.get(tensor.kind, 1)
    whole = math.prod(aligned) * _WIDTH.get(tensor.kind, 1) if aligned is not None else None
    if tensor.kind in ("NV12", "NV12_SEPARATE"):
        least, whole = least // 2, whole // 2 if whole is not None else None
    elif tensor.kind == "Y":
        whole = None
    if tensor.aligned_bytes != -1 and (tensor.aligned_bytes < least or whole not in (None, tensor.aligned_bytes)):
        raise ValueError(f"{title} of model_info: {tensor.aligned_bytes} bytes do not hold {aligned or shape}")


def _words(title: str, text: str, pattern: str) -> list[str]:
    """Split ``(a,b)`` or ``a,b,``; a missing end means truncated output."""
    match = re.fullmatch(r"\((.*)\)|(.*),", text)
    if not match:
        raise ValueError(f"{title} of model_info: {text!r} is truncated")
    inner = (match.group(1) if match.group(2) is None else match.group(2)).rstrip(",")
    words = inner.split(",") if inner else []
    if any(not re.fullmatch(pattern, word) for word in words):
        raise ValueError(f"{title} of model_info: cannot parse {text!r}")
    return words


def _shape(title: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\((-?\d+,)*-?\d+,?\)", text):
        raise ValueError(f"{title} of model_info: cannot parse {text!r}")
    return tuple(int(word) for word in text.strip("()").rstrip(",").split(","))
