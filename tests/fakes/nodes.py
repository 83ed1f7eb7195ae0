"""The nodes of a compiled graph: device, subgraph and type from the operator tables, the figures made up.

A figure is a pure function of the node's name, so two runs agree; none of them was computed from data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from bpudeploy.conformance.graph import NodeView, read_graph
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device, Fix, NodePlacement
from bpudeploy.conformance.segments import segments
from bpudeploy.spec.target import March
from tests.fakes.asked import Asked
from tests.fakes.models import ONLY_4D, Network, building

NO_CONV = (
    "There is no node can execute on BPU in this model, "
    "please make sure the model has at least one conv node which is supported by BPU."
)
PASSIVE = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice"}
_LUT = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Sqrt", "Erf", "Exp", "Log", "Pow", "Reciprocal"}
_LUT |= {"Elu", "HardSigmoid", "HardSwish", "Abs", "Neg", "Sin", "Cos", "Gelu"}
TYPES = {
    "Conv": "HzSQuantizedConv",
    "ConvTranspose": "HzSQuantizedConvTranspose",
    "Gemm": "HzSQuantizedConv",
    "MatMul": "HzSQuantizedMatmul",
    "Add": "HzSElementwiseAdd",
    "Sub": "HzSElementwiseSub",
    "Mul": "HzSElementwiseMul",
    "Div": "HzSElementwiseMul",
    "ReduceSum": "HzSQuantizedReduceSum",
    "ReduceMean": "HzSQuantizedReduceMean",
    "ReduceMax": "HzQuantizedReduceMax",
    "MaxPool": "HzQuantizedMaxPool",
    "GlobalAveragePool": "HzSQuantizedGlobalAveragePool",
    "Resize": "HzQuantizedResizeUpsample",
    "Pad": "HzPad",
    "PRelu": "HzPRelu",
} | dict.fromkeys(_LUT, "HzLut")
_SOFTMAX = (
    ("ReduceMax", "HzQuantizedReduceMax"),
    ("Sub", "HzSElementwiseSub"),
    ("Exp", "HzLut"),
    ("ReduceSum", "HzSQuantizedReduceSum"),
    ("Div_reciprocal", "HzLut"),
    ("Div_mul", "HzSElementwiseMul"),
)


@dataclass(frozen=True)
class Row:
    """One line of the node table; ``plain`` is the ONNX operator, that older tools print."""

    name: str
    on: str
    subgraph: int | None
    kind: str
    plain: str
    dtype: str
    cosine: float | None
    threshold: float | None


@dataclass(frozen=True)
class Compiled:
    """The table, one latency in microseconds for each BPU subgraph, and the nodes that fell to the CPU."""

    rows: tuple[Row, ...]
    latencies: tuple[float, ...]
    fallen: tuple[str, ...]


def figure(*words: str) -> float:
    """Return a number of [0, 1) that depends on the words only."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:6], "big") / 2**48


def cosine(name: str, dtype: str, depth: float) -> float:
    """Return a plausible cosine: lower with depth, higher in int16. FAKE_HB_COSINE sets the worst."""
    worst = float(os.environ.get("FAKE_HB_COSINE", "0.97"))
    loss = (1 - worst) * depth * (0.6 + 0.4 * figure("cosine", name))
    return round(1 - loss / (50 if dtype in ("int16", "si16", "float", "f32") else 1), 6)


def threshold(name: str) -> float:
    """Return a plausible calibration threshold."""
    return 1 + 99 * figure("threshold", name) ** 2


def compile_bin(network: Network, march: str, asked: Asked) -> Compiled:
    """Place every node as the vendor's list says and as the YAML asks; refuse what runs nowhere."""
    views = read_graph(network.model)
    placed = placement(network.model, March(march)).nodes
    _only_4d(views, march)
    devices = _devices(views, placed, asked)
    if not any(v.op in ("Conv", "Gemm") and d is Device.BPU for v, d in zip(views, devices, strict=True)):
        raise building(NO_CONV)
    found = segments(views, [d is Device.BPU for d in devices])
    rows = [_row(f"HZ_PREPROCESS_FOR_{n}", "BPU", 0, "HzSQuantizedPreprocess", "HzPreprocess") for n in asked.images]
    fused = _fused(views, devices)
    for i, (view, device) in enumerate(zip(views, devices, strict=True)):
        if device is not Device.FOLDED and i not in fused:
            rows += _rows(view, device, found.of.get(i), asked)
    fallen = [p.name for p in placed if p.device is Device.CPU and _broke(p)]
    macs = [0] * max(found.count, 1)
    for i, subgraph in found.of.items():
        macs[subgraph] += placed[i].cost.macs
    return Compiled(_figures(rows), tuple(40 + m / 1.4e6 for m in macs[: found.count]), tuple(fallen))


def _only_4d(views: Sequence[NodeView], march: str) -> None:
    if march == "bayes-e":  # merges dimensions, and has conv3d
        return
    for view in views:
        rank = len(view.features[0].shape) if view.features and view.features[0].shape is not None else 4
        if view.op in ONLY_4D and rank != 4:
            raise building(f"{view.op} only support 4 dim input")


def _broke(node: NodePlacement) -> bool:
    words = ("list has it on", "unless asked", "taken apart")
    return not any(w in node.reason for w in words)


def _devices(views: Sequence[NodeView], placed: Sequence[NodePlacement], asked: Asked) -> list[Device]:
    nowhere = sorted({n.op for n in placed if n.device in (Device.UNKNOWN, Device.UNSUPPORTED) and not _ours(n, asked)})
    if nowhere:
        raise building(f"HorizonRT not support these cpu operators: {', '.join(nowhere)}")
    devices: list[Device] = []
    for view, node in zip(views, placed, strict=True):
        device = Device.CPU if node.device in (Device.UNKNOWN, Device.UNSUPPORTED) else node.device
        wanted = asked.on.get(view.name)
        if wanted == "CPU" and device is Device.BPU:
            device = Device.CPU
        can = node.hint is not None and node.hint.fix is Fix.ASK
        if device is Device.CPU and can and (wanted == "BPU" or (view.op == "Softmax" and asked.softmax_on_bpu)):
            device = Device.BPU
        devices.append(device)
    return _passive(views, devices)


def _ours(node: NodePlacement, asked: Asked) -> bool:
    return asked.custom and "of domain" in node.reason


def _passive(views: Sequence[NodeView], devices: list[Device]) -> list[Device]:
    """Leave a node that only moves data where its input is."""
    maker = {t.name: i for i, v in enumerate(views) for t in v.outputs}
    for i, view in enumerate(views):
        sources = [maker[t.name] for t in view.features if t.name in maker]
        on_cpu = bool(sources) and all(devices[s] is Device.CPU for s in sources)
        if view.op in PASSIVE and devices[i] is Device.BPU and on_cpu:
            devices[i] = Device.CPU
    return devices


def _fused(views: Sequence[NodeView], devices: Sequence[Device]) -> set[int]:
    """Return the nodes that disappear into the convolution before them."""
    maker = {t.name: i for i, v in enumerate(views) for t in v.outputs}
    gone: set[int] = set()
    for i, view in enumerate(views):
        before = maker.get(view.features[0].name) if view.features else None
        if view.op not in ("Relu", "BatchNormalization") or before is None or devices[i] is not Device.BPU:
            continue
        chained = before in gone or views[before].op == "Conv"
        if chained and devices[before] is Device.BPU and len(views[before].readers) == 1:
            gone.add(i)
    return gone


def _row(name: str, on: str, subgraph: int | None, kind: str, plain: str, dtype: str = "int8") -> Row:
    return Row(name, on, subgraph, kind, plain, dtype, None, None)


def _rows(view: NodeView, device: Device, subgraph: int | None, asked: Asked) -> list[Row]:
    if device is Device.CPU:
        return [_row(view.name, "CPU", None, view.op, view.op, "float")]
    dtype = asked.dtype.get(view.name, "int16" if asked.all_int16 else "int8")
    if view.op == "Softmax":
        scope = view.name[: -len("Softmax")] if view.name.endswith("Softmax") else f"{view.name}_"
        return [_row(scope + part, "BPU", subgraph, kind, part, dtype) for part, kind in _SOFTMAX]
    row = _row(view.name, "BPU", subgraph, TYPES.get(view.op, view.op), view.op, dtype)
    if view.op != "Gemm":
        return [row]
    return [row, _row(f"{view.name}_transpose_output_reshape", "CPU", None, "Reshape", "Reshape", "float")]


def _figures(rows: Sequence[Row]) -> tuple[Row, ...]:
    made = []
    for i, row in enumerate(rows):
        first = row.plain == "HzPreprocess"
        near = 0.0014 if first else (i + 1) / len(rows)
        made.append(
            Row(
                *(row.name, row.on, row.subgraph, row.kind, row.plain, row.dtype),
                cosine(row.name, row.dtype, near),
                None if row.on == "CPU" else 127.0 if first else threshold(row.name),
            )
        )
    return tuple(made)
