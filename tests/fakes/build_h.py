"""Family H's build: PTQ, export, convert, compile, static performance; what is printed and written on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from bpudeploy.conformance.graph import NodeView, read_graph
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device
from bpudeploy.spec.target import March
from tests.fakes.config_h import Job
from tests.fakes.models import Network
from tests.fakes.nodes import cosine, threshold
from tests.fakes.products import artifact, digest, save_onnx, static_json
from tests.fakes.say import Log, Refused, fault
from tests.fakes.tables import bordered, cut

HEADER = ("Node", "NodeType", "ON", "Threshold", "Calibrated Cosine", "Quantized Cosine", "Output Data Type")
_FOLDED = {"Exp", "Reciprocal", "Erf", "Sigmoid", "Tanh", "Gelu", "HzGelu", "Sqrt", "HardSigmoid", "HardSwish"}
_SOFTMAX = ("reducemax", "sub", "exp", "reducesum", "reciprocal", "mul")
_SOFTMAX_TYPES = ("ReduceMax", "Sub", "Exp", "ReduceSum", "Reciprocal", "Mul")


@dataclass(frozen=True)
class HRow:
    """One line of family H's node table."""

    name: str
    kind: str
    on: str
    dtype: str


def check_graph(network: Network, *, custom: bool, log: Log) -> None:
    """Refuse what the exporter cannot read."""
    if network.opset > 19:
        raise Refused(
            "*** ERROR-OCCUR-DURING hmct.api.build_model ***, error message: "
            f"The opset version of the model is {network.opset}, the maximum supported version is 19."
        )
    foreign = [n.op_type for n in network.model.graph.node if n.domain not in ("", "ai.onnx")]
    if foreign and not custom:
        raise Refused(f"*** ERROR-OCCUR-DURING hbdk.export ***, error message: Unsupported op {foreign[0]}")
    log.at("display_model", 69).info(
        "\n".join(
            [
                "Input ONNX Model Information:",
                f"IR Version:               {network.model.ir_version}",
                f"Opset Version:            ['ai.onnx v{network.opset}', 'horizon v1']",
                "Graph Input:",
                *(f"    {n:20}: shape={s}, dtype=FLOAT32" for n, s in network.inputs.items()),
            ]
        )
    )


def _rows(network: Network, march: str) -> tuple[list[HRow], list[int]]:
    known = march if march in tuple(March) else "nash-e"
    views = read_graph(network.model)
    placed = placement(network.model, March(known)).nodes
    rows: list[HRow] = []
    for view, node in zip(views, placed, strict=True):
        if node.device is not Device.FOLDED:
            rows += _of(view, node.device)
    return rows, [n.cost.macs for n in placed]


def _of(view: NodeView, device: Device) -> list[HRow]:
    if device is Device.CPU:
        return [HRow(view.name, view.op, "CPU", "f32")]
    if view.op == "Softmax":
        parts = zip(_SOFTMAX, _SOFTMAX_TYPES, strict=True)
        return [
            HRow(f"{view.name}_{p}_FROM_QUANTIZED_SOFTMAX", t, "--" if t in _FOLDED else "BPU", "si16")
            for p, t in parts
        ]
    on = "--" if view.op in _FOLDED else "BPU"
    kind = "Conv" if view.op == "Gemm" or (view.op == "MatMul" and view.constants) else view.op
    wide = view.op in ("Add", "Sub", "Mul", "ReduceMean")
    row = HRow(view.name, kind, on, "si16" if wide else "si8")
    if view.op != "Gemm":
        return [row]
    return [row, HRow(f"{view.name}_reshape_output", "Reshape", "VPU+BPU", "f32,si32")]


def _cells(row: HRow, at: float, *, last: bool) -> list[str]:
    seen = cosine(row.name, row.dtype, at)
    return [
        cut(row.name, 40),
        row.kind,
        row.on,
        "--" if row.on in ("CPU", "VPU+BPU") else f"{threshold(row.name):.6f}".rstrip("0"),
        f"{seen:.6f}",
        f"{max(seen - 0.001, 0):.6f}" if last else "--",
        "--" if row.on == "--" else row.dtype,
    ]


class Stage:
    """Say the start and the end of a stage; what goes wrong in it is printed with its name."""

    def __init__(self, log: Log, words: str, stage: str, module: str) -> None:
        self.log, self.words, self.stage, self.module = log, words, stage, module

    def __enter__(self) -> None:
        self.log.at("hbm_builder", 275).info(f"Start to {self.words} model.")
        fault(self.stage)
        if os.environ.get("FAKE_HB_FAIL") == self.stage:
            raise Refused(f"*** ERROR-OCCUR-DURING {self.module} ***, error message: asked for by FAKE_HB_FAIL")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.stage != "compile":
            self.log.at("hbm_builder", 283).info(f"Successfully {self.words} model.")


def quantize(job: Job, data: Mapping[str, Sequence[Any]], log: Log) -> None:
    """Run the PTQ part, which writes the .onnx files."""
    log.at("wrap_utils", 40).debug("Start to execute hmct.api.build_model.")
    params = {"cali_dict": {"calibration_type": job.calibration, "data": dict(data)}, "quant_config": job.quant_config}
    log.at("wrap_utils", 46).debug(f"hmct.api.build_model input kwargs {params}")
    log.at("model_builder", 36).info("Start to Horizon NN Model Convert.")
    log.at("model_builder", 230).info(f"The specified model compilation architecture: {job.march}.")
    for words, stage, product in (
        ("prepare the onnx model", "parse", "original_float"),
        ("optimize the onnx model", "optimize", "optimized_float"),
        ("calibrate the model", "calibrate", "calibrated"),
        ("precompile the model", "quantize", "ptq"),
    ):
        log.at("model_builder", 36).info(f"Start to {words}.")
        fault(stage)
        if stage == "parse":
            check_graph(job.network, custom=job.custom, log=log)
        if stage == "calibrate" and data and job.calibration == "default":
            log.at("infer_thresholds", 84).info("Run calibration model with modelwise search method.")
            log.at("modelwise_search", 75).info("Select max-percentile:percentile=0.99995 method.")
        log.at("model_builder", 39).info(f"End to {words}.")
        path = job.working_dir / f"{job.prefix}_{product}_model.onnx"
        log.at("model_builder", 287).info(f"Saving model to: {path}.")
        save_onnx(job.network.model, path, [], product.partition("_")[0])
    log.at("model_builder", 39).info("End to Horizon NN Model Convert.")


def build(job: Job, log: Log, skip: str | None = None) -> None:
    """Export, convert, compile, and write the products; ``skip`` ends before the stage of that name."""
    facts = {"march": job.march, "model": digest(job.network.path), "inputs": job.network.inputs, "level": job.level}
    here = job.working_dir / job.prefix
    if skip == "export":
        return
    with Stage(log, "export", "export", "hbdk.export"):
        pass
    _inserts(job, log)
    if skip == "convert":
        return
    with Stage(log, "convert", "convert", "hbdk.convert"):
        artifact(here.with_name(f"{here.name}_quantized_model.bc"), "bc", facts)
    rows, macs = _rows(job.network, job.march)
    for line in bordered(HEADER, [_cells(r, i / len(rows), last=r is rows[-1]) for i, r in enumerate(rows, 1)]):
        log.at("tool_utils", 566).info(line)
    outputs = [[n, *_cells(rows[-1], 1.0, last=True)[4:6]] for n in job.network.outputs]
    for line in bordered(("TensorName", "Calibrated Cosine", "Quantized Cosine"), outputs):
        log.info(line)
    model = job.config["model_parameters"]
    if model.get("remove_node_type") or model.get("remove_node_name"):
        artifact(here.with_name(f"{here.name}_quantized_removed_model.bc"), "bc", facts)
    if skip == "compile":
        return
    compile_hbm(job, log, facts, sum(macs))


def _inserts(job: Job, log: Log) -> None:
    log.at("hbm_builder", 171).info(f"Current input_names: {[i.name for i in job.inputs]}")
    for index, it in enumerate(i for i in job.inputs if i.rt != "featuremap"):
        log.info(f"{it.name}'s input_source is {it.source}")
        if it.layout == "NCHW":
            log.at("hbm_builder", 141).info(f"Insert transpose op for {it.name} at input {index}")
        log.at("hbm_builder", 104).info(f"Insert image preprocess op for {it.name} at input {index}")
        if it.source == "pyramid":
            log.at("hbm_builder", 152).info(f"Insert image convert op for {it.name} at input {index}")


def compile_hbm(job: Job, log: Log, facts: Mapping[str, Any], macs: int) -> None:
    """Compile what was quantized, and print the table of inputs and outputs."""
    here = job.working_dir / job.prefix
    given = job.config["compiler_parameters"]
    balance = given.get("balance_factor", 100)
    params = {"jobs": given.get("jobs", 16), "balance": balance, "opt": int(job.level[1]), "core_num": job.core_num}
    log.at("hbm_builder", 64).info(f"Compile params: {params}")
    hbm = here.with_name(f"{here.name}.hbm")
    with Stage(log, "compile", "compile", "hbdk.compile"):
        if "FAKE_HB_TRUNCATE" not in os.environ:
            artifact(hbm, "hbm", {**facts, "quant_config": job.quant_config})
    log.at("hbm_builder", 314).info(f"Successfully compile the hbm model, generated hbm model is saved at {hbm}")
    latency = 30 + macs / 8e6
    (here.with_name(f"{here.name}.json")).write_text(static_json([latency], job.march, int(latency * 9000)))
    (here.with_name(f"{here.name}.html")).write_text(f"<html><body>{job.prefix}: {latency:.1f} us</body></html>\n")
    advice = {"march": job.march, "nodes": []}
    (here.with_name(f"{here.name}_advice.json")).write_text(json.dumps(advice))
    log.info(f"Successfully perf the model, generated result is saved at {job.working_dir}")
    log.at("hb_model_info", 185).info("############# Model input/output info #############")
    for line in _tensors(job):
        log.at("tool_utils", 529).info(line)


def _tensors(job: Job) -> list[str]:
    """Return the table of tensors: an nv12 input has become two."""
    rows: list[tuple[str, str, list[int], str]] = []
    for it in job.inputs:
        if it.rt == "nv12":
            height, width = it.shape[2:] if it.layout == "NCHW" else it.shape[1:3]
            rows.append((f"{it.name}_y", "input", [1, height, width, 1], "UINT8"))
            rows.append((f"{it.name}_uv", "input", [1, height // 2, width // 2, 2], "UINT8"))
        elif it.rt == "featuremap":
            rows.append((it.name, "input", it.shape, "FLOAT32"))
        else:
            shape = [it.shape[0], *it.shape[2:], it.shape[1]] if it.layout == "NCHW" else it.shape
            rows.append((it.name, "input", shape, "UINT8" if it.rt == "gray" else "INT8"))
    shapes = {t.name: list(t.shape or ()) for v in read_graph(job.network.model) for t in v.outputs}
    rows += [(n, "output", shapes.get(n, []), "FLOAT32") for n in job.network.outputs]
    cells = [("NAME", "TYPE", "SHAPE", "DATA_TYPE"), *((n, t, str(s), d) for n, t, s, d in rows)]
    widths = [max(len(c[i]) for c in cells) for i in range(4)]
    lines = [" ".join(c.ljust(w) for c, w in zip(cell, widths, strict=True)).rstrip() for cell in cells]
    assert all(prod(r[2]) for r in rows if r[2])
    return [lines[0], " ".join("-" * w for w in widths), *lines[1:]]
