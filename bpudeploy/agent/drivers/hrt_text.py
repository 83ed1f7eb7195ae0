"""What ``hrt_model_exec`` prints and writes, read strictly: a line that is not understood is a ValueError naming it.

Console noise in front (versions, warnings, the load time) is passed over; what carries a number that is used must be
whole, and must agree with the other numbers that say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import Match, Pattern

_NUMBER = r"(\d+\.\d+)"


@dataclass(frozen=True)
class Tensor:
    """One input or output, as model_info has it. ``kind`` is NV12, RGB, U8, S32, F32 ...; strides are in bytes.

    ``stride`` and ``aligned_bytes`` hold -1 where the caller may choose.
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
    """What a model file holds."""

    model: str
    runtime: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Perf:
    """What ``perf`` says; min and max are None in the condensed form of the READMEs, which has no progress line."""

    frames: int
    streams: int
    mean_ms: float
    min_ms: float | None
    max_ms: float | None
    fps: float


_KNOWN = re.compile(r"Incompatible Platform|platform march|\bfailed\b|error code|unknown command line flag", re.I)
_ERROR = re.compile(r"^(\[E\]|E\d{4} |ERROR\b)")


def failure(text: str) -> str | None:
    """Return the line by which the tool says that it failed, or None. Its exit status may say nothing."""
    worst = None
    for line in text.splitlines():
        if re.search("Incompatible Platform|platform march", line):
            return line.strip()
        if _KNOWN.search(line) or _ERROR.match(line.strip()):
            worst = worst or line.strip()
    return worst


def runtime_of(text: str) -> str | None:
    """Return the version of the runtime library that the head names."""
    match = re.search(r"\[DNN\](?: Runtime version =|:) (\d+\.\d+\S*_\([\d.]+ HBRT\))", text)
    return match.group(1) if match else None


# perf ----------------------------------------------------------------------------------------------------------------

_PROGRESS = re.compile(
    rf"Frame count: (\d+),  Thread Average: {_NUMBER} ms,  thread max latency: {_NUMBER} ms,  "
    rf"thread min latency: {_NUMBER} ms,  FPS: {_NUMBER}"
)
_SUMMARY: dict[str, Pattern[str]] = {
    "streams": re.compile(r"Thread number is: (\d+)"),
    "frames": re.compile(r"Frame count\s+is: (\d+)"),
    "cores": re.compile(r"core number\s+is: (\d+)"),
    "run": re.compile(rf"Program run time: {_NUMBER} ms"),
    "result": re.compile(r"Perf result:"),
    "total": re.compile(rf"Frame totally latency is: {_NUMBER} ms"),
    "mean": re.compile(rf"Average\s+latency\s+is: {_NUMBER} ms"),
    "fps": re.compile(rf"Frame\s+rate\s+is: {_NUMBER} FPS"),
}
_NEEDED = ("streams", "frames", "result", "total", "mean", "fps")


def perf(text: str) -> Perf:
    """Read what ``perf`` printed, in the forms of X3, X5 and the S-series, or condensed.

    Raises:
        ValueError: a line is not understood, or the answer contradicts itself.
    """
    progress: Match[str] | None = None
    said: dict[str, str] = {}
    summing = False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line == "Running condition:":
            if summing:
                raise ValueError(f"line {number}: two answers in one")
            summing = True
        elif summing:
            if line:
                _summary(said, line, number)
        elif re.search("Frame count|latency|FPS", line):
            progress = _PROGRESS.fullmatch(line)
            if not progress:
                raise ValueError(f"line {number}: {line!r} is not understood")
    for name in _NEEDED:
        if name not in said:
            raise ValueError(f"no line {_SUMMARY[name].pattern!r} in what perf printed")
    low = high = None
    if progress:
        low, high = float(progress.group(4)), float(progress.group(3))
    found = Perf(int(said["frames"]), int(said["streams"]), float(said["mean"]), low, high, float(said["fps"]))
    _agree(found, said, progress)
    return found


def _summary(said: dict[str, str], line: str, number: int) -> None:
    plain = line[2:] if line.startswith("- ") else line
    for name, pattern in _SUMMARY.items():
        match = pattern.fullmatch(plain)
        if match:
            if name in said:
                raise ValueError(f"line {number}: {line!r} is said twice")
            said[name] = match.group(1) if pattern.groups else ""
            return
    raise ValueError(f"line {number}: {line!r} is not understood")


def _agree(found: Perf, said: dict[str, str], progress: Match[str] | None) -> None:
    """Hold the numbers to one another: each of frames, mean and rate is there more than once."""
    if not (found.frames > 0 and found.streams > 0 and found.mean_ms > 0 and found.fps > 0):
        raise ValueError("perf says nothing ran")
    mean = float(said["total"]) / found.frames
    if abs(mean - found.mean_ms) > 0.0011 + 1e-4 * mean:
        raise ValueError(f"perf contradicts itself: {said['total']} ms over {found.frames} frames, {said['mean']} each")
    if "run" in said and abs(found.frames / float(said["run"]) * 1000 / found.fps - 1) > 0.02:
        raise ValueError(f"perf contradicts itself: {found.frames} frames in {said['run']} ms, {said['fps']} FPS")
    in_flight(found.fps, found.mean_ms, found.streams)
    if progress:
        count, last, rate = int(progress.group(1)), float(progress.group(2)), float(progress.group(5))
        if count != found.frames or abs(last - found.mean_ms) > 0.0011 or abs(rate / found.fps - 1) > 0.05:
            raise ValueError(f"perf contradicts itself: {progress.group(0)!r} is not of its last frame")
    low, high = found.min_ms, found.max_ms
    if low is not None and high is not None and not low - 0.001 <= found.mean_ms <= high + 0.001:
        raise ValueError(f"perf contradicts itself: {low} ms at least, {found.mean_ms} on average, {high} at most")


def in_flight(fps: float, mean_ms: float, streams: int) -> None:
    """Refuse a rate and a latency that do not go with the number of threads: rate * latency = frames in flight."""
    flying = fps * mean_ms / 1000
    if not 0.75 * streams <= flying <= 1.02 * streams + 0.001:
        raise ValueError(f"{fps} FPS at {mean_ms} ms is {flying:.2f} frames at once, and {streams} threads ran")


# model_info ----------------------------------------------------------------------------------------------------------

_FIELDS = {
    "name",
    "input source",
    "valid shape",
    "aligned shape",
    "aligned byte size",
    "tensor type",
    "tensor layout",
    "quanti type",
    "stride",
    "scale data",
    "zero_point data",
    "shift data",
    "quantizeAxis",
}
_KINDS = {
    "HB_DNN_IMG_TYPE_": ("Y", "NV12", "NV12_SEPARATE", "YUV444", "RGB", "BGR"),
    "HB_DNN_TENSOR_TYPE_": (
        *("S4", "U4", "S8", "U8", "F16", "S16", "U16"),
        *("F32", "S32", "U32", "F64", "S64", "U64", "BOOL8"),
    ),
}
_WIDTH = {"F16": 2, "S16": 2, "U16": 2, "F32": 4, "S32": 4, "U32": 4, "F64": 8, "S64": 8, "U64": 8}


def model_info(text: str) -> ModelInfo:
    """Read what ``model_info`` printed of a file with one model.

    Raises:
        ValueError: a line is not understood, or there is not exactly one model.
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
        raise ValueError(f"model_info lists {len(names)} models, or was cut off; one was asked for")
    sides: dict[str, list[Tensor]] = {"input": [], "output": []}
    for title, fields in blocks:
        side, index = title[:-2].split("[")
        if (sides["output"] and side == "input") or len(sides[side]) != int(index):
            raise ValueError(f"model_info lists {title} out of its turn")
        sides[side].append(_tensor(title, fields))
    if not sides["input"] or not sides["output"]:
        raise ValueError("model_info lists no inputs or no outputs")
    if len({tensor.layout is None for side in sides.values() for tensor in side}) != 1:
        raise ValueError("model_info has layouts for some tensors, not for all")
    return ModelInfo(names[0], runtime_of(text), tuple(sides["input"]), tuple(sides["output"]))


def _field(blocks: list[tuple[str, dict[str, str]]], line: str, number: int) -> None:
    key, colon, value = line.partition(": ")
    if not blocks or not colon or key not in _FIELDS or key in blocks[-1][1]:
        raise ValueError(f"line {number}: {line!r} is not understood")
    blocks[-1][1][key] = value


def _tensor(title: str, fields: dict[str, str]) -> Tensor:
    """Return one tensor; B has an aligned shape and a layout, H has neither, and -1 for what is left to the caller."""
    for key in ("name", "valid shape", "aligned byte size", "tensor type", "quanti type", "stride"):
        if key not in fields:
            raise ValueError(f"{title} of model_info has no {key!r}")
    if ("aligned shape" in fields) != ("tensor layout" in fields):
        raise ValueError(f"{title} of model_info has an aligned shape or a layout, not both")
    kind, layout = fields["tensor type"], fields.get("tensor layout")
    prefix = next((p for p in _KINDS if kind.startswith(p)), None)
    if prefix is None or kind[len(prefix) :] not in _KINDS[prefix]:
        raise ValueError(f"{title} of model_info has the tensor type {kind!r}")
    if layout is not None and not re.fullmatch(r"HB_DNN_LAYOUT_(NCHW|NHWC|NONE)", layout):
        raise ValueError(f"{title} of model_info has the layout {layout!r}")
    if not re.fullmatch(r"-1|\d+", fields["aligned byte size"]):
        raise ValueError(f"{title} of model_info has {fields['aligned byte size']!r} bytes")
    shape, stride = _whole(title, fields["valid shape"]), _whole(title, fields["stride"])
    scales, zeros, axis = _scale(title, fields, shape)
    found = Tensor(
        name=fields["name"],
        shape=shape,
        kind=kind[len(prefix) :],
        layout=layout[len("HB_DNN_LAYOUT_") :] if layout is not None else None,
        aligned_shape=_whole(title, fields["aligned shape"]) if "aligned shape" in fields else None,
        aligned_bytes=int(fields["aligned byte size"]),
        stride=stride,
        scales=scales,
        zeros=zeros,
        axis=axis,
    )
    _plausible(title, found)
    return found


def _scale(
    title: str, fields: dict[str, str], shape: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[int, ...], int | None]:
    """Return scales, zero points where one is not 0, and the axis where there is more than one scale."""
    quanti = fields["quanti type"]
    if quanti not in ("NONE", "SCALE", "SHIFT") or ("scale data" in fields) != (quanti == "SCALE"):
        raise ValueError(f"{title} of model_info is quantized by {quanti!r}")
    if quanti != "SCALE":
        return (), (), None
    if "tensor layout" not in fields and "zero_point data" not in fields:
        raise ValueError(f"{title} of model_info has a scale and no zero point")
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


def _plausible(title: str, tensor: Tensor) -> None:
    """Hold the sizes to one another."""
    shape, aligned = tensor.shape, tensor.aligned_shape
    same = tensor.stride is not None and len(tensor.stride) == len(shape)
    if min(shape) < 1 or not same or (aligned is not None and len(aligned) != len(shape)):
        raise ValueError(f"{title} of model_info: {shape}, {aligned} and {tensor.stride} do not go together")
    if aligned is not None and any(a < s for a, s in zip(aligned, shape)):
        raise ValueError(f"{title} of model_info has the shape {shape}, aligned to {aligned}")
    least = _product(shape) * _WIDTH.get(tensor.kind, 1)
    whole = _product(aligned) * _WIDTH.get(tensor.kind, 1) if aligned is not None else None
    if tensor.kind in ("NV12", "NV12_SEPARATE"):
        least, whole = least // 2, whole // 2 if whole is not None else None
    elif tensor.kind == "Y":
        whole = None
    if tensor.aligned_bytes != -1 and (tensor.aligned_bytes < least or whole not in (None, tensor.aligned_bytes)):
        raise ValueError(f"{title} of model_info: {tensor.aligned_bytes} bytes do not hold {aligned or shape}")


def _product(sides: tuple[int, ...]) -> int:
    values = 1
    for side in sides:
        values *= side
    return values


def _words(title: str, text: str, pattern: str) -> list[str]:
    """Return the words of ``(a,b)``, or of ``a,b,``: the end shows that nothing was cut off."""
    whole = re.fullmatch(r"\((.*)\)|(.*),", text)
    if not whole:
        raise ValueError(f"{title} of model_info: {text!r} was cut off")
    inner = (whole.group(1) if whole.group(2) is None else whole.group(2)).rstrip(",")
    words = inner.split(",") if inner else []
    if any(not re.fullmatch(pattern, word) for word in words):
        raise ValueError(f"{title} of model_info: {text!r} is not understood")
    return words


def _whole(title: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\((-?\d+,)*-?\d+,?\)", text):
        raise ValueError(f"{title} of model_info: {text!r} is not understood")
    return tuple(int(word) for word in text.strip("()").rstrip(",").split(","))
