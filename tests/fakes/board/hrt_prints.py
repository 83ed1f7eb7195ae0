"""What the fake ``hrt_model_exec`` prints and writes, in the forms of the boards' own logs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .artifact import Artifact

_RULE = "-" * 69
_TYPES = {"float32": ("F32", 4), "int8": ("S8", 1), "int16": ("S16", 2), "int32": ("S32", 4)}


@dataclass(frozen=True)
class Run:
    """Frames of one made-up latency, ``streams`` at a time, 97 % of the time busy."""

    held: Artifact
    frames: int
    streams: int
    latency_ms: float

    @property
    def mean(self) -> float:
        """In ms: the BPU takes one frame at once, so more streams wait for each other beyond two."""
        return self.latency_ms * max(1.0, self.streams / 2)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return 0.97 * self.streams / self.mean * 1000


def input_names(held: Artifact) -> list[str]:
    """Return the inputs' names, in order."""
    return ["pixels_y", "pixels_uv"] if held.kind == "hbm" and held.input_type == "nv12" else ["pixels"]


def aligned(held: Artifact) -> int:
    """Return the output's bytes on the board: H aligns to 64."""
    raw = held.batch * held.classes * _TYPES[held.output][1]
    return math.ceil(raw / 64) * 64 if held.kind == "hbm" else raw


def _shape(sides: Any) -> str:
    return "(" + "".join(f"{side}," for side in sides) + ")"


def _b(held: Artifact) -> list[str]:
    n, h, w = held.batch, held.height, held.width
    nchw = held.input_type != "rgb-nhwc"
    shape = _shape((n, 3, h, w) if nchw else (n, h, w, 3))
    nv12 = held.input_type == "nv12"
    kind, size = _TYPES[held.output]
    out = held.shape
    steps = [math.prod(out[i + 1 :]) * size for i in range(4)]
    lines = [
        "input[0]: ",
        "name: pixels",
        f"input source: HB_DNN_INPUT_FROM_{'PYRAMID' if nv12 else 'DDR'}",
        f"valid shape: {shape}",
        f"aligned shape: {shape}",
        f"aligned byte size: {n * h * w * 3 // 2 if nv12 else n * h * w * 3}",
        f"tensor type: HB_DNN_IMG_TYPE_{'NV12' if nv12 else 'RGB'}",
        f"tensor layout: HB_DNN_LAYOUT_{'NCHW' if nchw else 'NHWC'}",
        "quanti type: NONE",
        "stride: (0,0,0,0,)",
        "",
        "output[0]: ",
        "name: logits",
        f"valid shape: {_shape(out)}",
        f"aligned shape: {_shape(out)}",
        f"aligned byte size: {aligned(held)}",
        f"tensor type: HB_DNN_TENSOR_TYPE_{kind}",
        f"tensor layout: HB_DNN_LAYOUT_{'NCHW' if held.output == 'float32' else 'NHWC'}",
        f"quanti type: {'SCALE' if held.scales else 'NONE'}",
        f"stride: {_shape(steps)}",
    ]
    if held.scales:
        lines += ["scale data: " + "".join(f"{s:g}," for s in held.scales), "quantizeAxis: 3"]
    return lines


def _h(held: Artifact) -> list[str]:
    n, h, w = held.batch, held.height, held.width
    shapes: dict[str, list[tuple[int, ...]]] = {
        "nv12": [(n, h, w, 1), (n, h // 2, w // 2, 2)],
        "rgb-nhwc": [(n, h, w, 3)],
        "rgb-nchw": [(n, 3, h, w)],
    }
    lines = []
    for i, (name, shape) in enumerate(zip(input_names(held), shapes[held.input_type], strict=True)):
        steps = f"(-1,-1,{shape[3]},1,)" if held.input_type != "rgb-nchw" else "(-1,-1,-1,1,)"
        lines += [f"input[{i}]: ", f"name: {name}", f"valid shape: {_shape(shape)}", "aligned byte size: -1"]
        lines += ["tensor type: HB_DNN_TENSOR_TYPE_U8", "quanti type: NONE", f"stride: {steps}", ""]
    kind, size = _TYPES[held.output]
    lines += ["output[0]: ", "name: logits", f"valid shape: {_shape(held.shape)}"]
    lines += [f"aligned byte size: {aligned(held)}", f"tensor type: HB_DNN_TENSOR_TYPE_{kind}"]
    lines += [f"quanti type: {'SCALE' if held.scales else 'NONE'}", f"stride: ({held.classes * size},{size},)"]
    if held.scales:
        values, zeros = ",".join(f"{s:g}" for s in held.scales), ",".join("0" for _ in held.scales)
        lines += [f"scale data: ({values})", f"zero_point data: ({zeros})"]
        lines += ["quantizeAxis: 1"] if len(held.scales) > 1 else []
    return lines


def model_info(held: Artifact) -> str:
    """Return model_info's text, after the load time."""
    blocks = _b(held) if held.kind == "bin" else _h(held)
    top = ["This model file has 1 model:", f"[{held.name}]", _RULE, f"[model name]: {held.name}", ""]
    return "\n".join([*top, *blocks, "", _RULE, ""])


def perf(run: Run, march: str) -> str:
    """Return perf's text: a line for each 200 frames, or for fewer at the end, then the summary."""
    lines = []
    for count in range(200, run.frames + 1, 200) if run.frames >= 200 else (run.frames,):
        lines.append(
            f"Frame count: {count},  Thread Average: {run.mean:.6f} ms,  thread max latency: {run.mean * 1.1:.6f} ms,  "
            f"thread min latency: {run.mean * 0.9:.6f} ms,  FPS: {run.fps * 1.0002:.6f}"
        )
    short = ".3f" if march.startswith("nash") else ".6f"
    wall, total = run.frames / run.fps * 1000, run.mean * run.frames
    lines += ["", "Running condition:", f"  Thread number is: {run.streams}", f"  Frame count   is: {run.frames}"]
    if march == "bernoulli2":
        lines.append("  core number   is: 1")
    lines += [f"  Program run time: {wall:{short}} ms", "Perf result:"]
    lines.append(f"  Frame totally latency is: {total:{short}} ms")
    lines.append(f"  Average    latency    is: {run.mean:{short}} ms")
    lines.append(f"  Frame      rate       is: {run.fps:{short}} FPS")
    return "\n".join(lines)


def _timing(ms: float) -> dict[str, float]:
    return {"avg_time": ms, "max_time": ms * 1.1, "min_time": ms * 0.9}


def profile(run: Run) -> str:
    """Return profiler.log."""
    bpu, rest = run.mean * 0.9, run.mean * 0.1
    core: Any = 0 if run.held.kind == "bin" else "0"
    condition = {"core_id": core, "frame_count": run.frames, "model_name": run.held.name}
    condition |= {"run_time": run.frames / run.fps * 1000, "thread_num": run.streams}
    first = {"perf_result": {"FPS": run.fps, "average_latency": run.mean}, "running_condition": condition}
    costs = {"BPU_inference_time_cost": _timing(bpu), "CPU_inference_time_cost": _timing(rest)}
    if run.held.kind == "hbm":
        stages = {"Stage1-GenerateBpuTask": bpu * 0.1, "Stage2-BpuCoreProcess": bpu * 0.9, "Total": bpu}
        segment = f"Node-0-BPU-{run.held.name}_bpu_segment_0"
        second: dict[str, Any] = {
            "model_latency": {segment: {name: _timing(ms) for name, ms in stages.items()}},
            "processor_latency": costs,
            "task_latency": {"TaskRunningTime": _timing(run.mean)},
        }
        return f"ucp_version: 3.3.3\n{json.dumps(first, indent=2)}\n***\n{json.dumps(second, indent=2)}\n"
    nodes = {"BPU_main_graph_subgraph_0": bpu, "Dequantize_logits_HzDequantize": rest * 0.6, "Preprocess": rest * 0.1}
    nodes |= {"main_graph_subgraph_0_output_layout_convert": rest * 0.3}
    second = {
        "chip_latency": costs,
        "model_latency": {name: _timing(ms) for name, ms in nodes.items()},
        "task_latency": {"TaskPendingTime": _timing(0.03), "TaskRunningTime": _timing(run.mean)},
    }
    return f"{json.dumps(first, indent=2)}\n***\n{json.dumps(second, indent=2)}\n"
