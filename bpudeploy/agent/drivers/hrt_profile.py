"""Parse ``profiler.log`` of ``hrt_model_exec perf --profile_path``: two JSON documents, separated by ``***``.

On Bernoulli and Bayes each node is one timing (``BPU_<subgraph>``, ``Dequantize_..``, ``.._layout_convert``,
``Preprocess``, ``Softmax_..``); all but the BPU's add up to the CPU's time. On the S series each BPU segment has
stages, and a line with the runtime's version comes first.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .base import Layer
from .hrt_text import in_flight

_STAGES = {"Stage1-GenerateBpuTask", "Stage2-BpuCoreProcess", "Total"}


def layers(text: str, streams: int, frames: int) -> list[Layer]:
    """Return the time of each part, in ms per frame.

    A log of a run with more frames in flight than threads is refused: its times include waiting.

    Raises:
        ValueError: it is malformed, inconsistent, or from another run.
    """
    run, nodes = _documents(text)
    known = {"model_latency", "chip_latency", "processor_latency", "task_latency"}
    if set(run) != {"perf_result", "running_condition"} or "model_latency" not in nodes or not set(nodes) <= known:
        raise ValueError(f"profiler.log has {sorted(run)} and {sorted(nodes)}")
    condition, result = run["running_condition"], run["perf_result"]
    if condition.get("thread_num") != streams or condition.get("frame_count") != frames:
        raise ValueError(
            f"profiler.log is of {condition.get('frame_count')} frames in {condition.get('thread_num')} threads, "
            f"not of {frames} in {streams}"
        )
    in_flight(_number("", result, "FPS"), _number("", result, "average_latency"), streams)
    found = [layer for name, entry in nodes["model_latency"].items() for layer in _node(name, entry)]
    if not found:
        raise ValueError("profiler.log lists no nodes")
    _check_sums(found, nodes)
    pending = nodes.get("task_latency", {}).get("TaskPendingTime")
    if pending is not None:
        found.append(Layer("TaskPendingTime", None, "runtime", _timing("TaskPendingTime", pending)))
    return found


def _documents(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if re.search(r"[0-9]\s+,|:\s{2,}", text):
        raise ValueError("profiler.log has a gap next to a number")
    lines = text.splitlines()
    if lines and re.fullmatch(r"ucp_version: \S+", lines[0].strip()):
        lines = lines[1:]
    marks = [i for i, line in enumerate(lines) if line.strip() == "***"]
    if len(marks) != 1:
        raise ValueError(f"profiler.log has {len(marks)} lines of ***, expected one")
    documents = [
        json.loads("\n".join(part), object_pairs_hook=_unique_keys)
        for part in (lines[: marks[0]], lines[marks[0] + 1 :])
    ]
    if any(not isinstance(value, dict) for document in documents for value in document.values()):
        raise ValueError("profiler.log has values that are not objects")
    return documents[0], documents[1]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError(f"profiler.log has a duplicate among {[key for key, _ in pairs]}")
    return dict(pairs)


def _number(where: str, values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"profiler.log{where} has {key} {value!r}")
    return float(value)


def _timing(name: str, entry: Any) -> float:
    """Return the average of one timing."""
    if not isinstance(entry, dict) or set(entry) != {"avg_time", "max_time", "min_time"}:
        raise ValueError(f"profiler.log: {name} is {entry!r}")
    low, average, high = (_number(f": {name}", entry, key) for key in ("min_time", "avg_time", "max_time"))
    if not low - 1e-3 <= average <= high + 1e-3:
        raise ValueError(f"profiler.log: {name} has min {low}, average {average}, max {high}")
    return average


def _node(name: str, entry: Any) -> list[Layer]:
    segment = re.fullmatch(r"Node-\d+-(BPU|CPU)-(.+)", name)
    if segment and isinstance(entry, dict) and "Total" in entry:
        stages = {stage: _timing(f"{name} {stage}", times) for stage, times in entry.items()}
        total = stages["Total"]
        if set(stages) not in (_STAGES, {"Total"}):
            raise ValueError(f"profiler.log: {name} has the stages {sorted(stages)}")
        core = stages.get("Stage2-BpuCoreProcess", total)
        if core > total * 1.05 + 0.02:
            raise ValueError(f"profiler.log: {name} takes {total} ms, but its stage {core}")
        parts = [Layer(name, None, segment.group(1).lower(), min(core, total))]
        return [*parts, Layer(f"{name} (around it)", None, "runtime", total - core)] if core < total else parts
    ms = _timing(name, entry)
    if not re.fullmatch(r"[\w./:-]+", name, re.ASCII):
        raise ValueError(f"profiler.log has a node {name!r}")
    if segment:
        return [Layer(name, None, segment.group(1).lower(), ms)]
    if name.startswith("BPU_"):
        return [Layer(name, None, "bpu", ms)]
    if name == "Preprocess" or name.endswith("_layout_convert"):
        return [Layer(name, None, "runtime", ms)]
    return [Layer(name, name.split("_")[0], "cpu", ms)]


def _check_sums(found: list[Layer], nodes: dict[str, Any]) -> None:
    """Check the nodes' times against the totals in the log."""
    costs = nodes.get("chip_latency", nodes.get("processor_latency"))
    if costs is None:
        raise ValueError("profiler.log has no chip_latency and no processor_latency")
    staged = any(layer.name.startswith("Node-") for layer in found)
    for part in ("BPU", "CPU"):
        cost = _timing(part, costs.get(f"{part}_inference_time_cost"))
        if staged:
            total = sum(layer.ms for layer in found if re.match(rf"Node-\d+-{part}-", layer.name))
        else:
            total = sum(layer.ms for layer in found if (layer.where == "bpu") == (part == "BPU"))
        if not (staged and part == "CPU") and abs(total - cost) > 0.02 + 0.05 * cost:
            raise ValueError(f"profiler.log: the {part}'s nodes take {total:.3f} ms, but the {part} {cost:.3f}")
