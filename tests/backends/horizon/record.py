"""Record logs of the real hb_mapper on a small network, for the parser's tests and the fake.

    .venv/bin/python -m tests.backends.horizon.record

Needs `bpudeploy toolchain install`. It rewrites ``logs/`` with the tool's raw output.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bpudeploy.backends.horizon.toolchain.installed import installed

LOGS = Path(__file__).parent / "logs"
CONFIG = """\
model_parameters:
  onnx_model: "m.onnx"
  march: "{march}"
  output_model_file_prefix: "model"
  working_dir: "out"
{info}input_parameters:
  input_name: "x"
  input_type_train: "rgb"
  input_type_rt: "nv12"
  input_layout_train: "NCHW"
  norm_type: "data_mean_and_scale"
  mean_value: "123.675 116.28 103.53"
  scale_value: "0.01712 0.0175 0.01743"
calibration_parameters:
  cal_data_dir: "cal_f32"
  cal_data_type: "float32"
  calibration_type: "default"
compiler_parameters:
  optimize_level: "{level}"
"""
INFO = """\
  node_info:
    "attention.softmax": {"ON": "BPU", "InputType": "int16", "OutputType": "int16"}
    "attention.product": {"ON": "BPU", "InputType0": "int16"}
    "stem.relu": {"ON": "BPU", "OutputType": "int16"}
    "mlp.gelu.erf": {"ON": "BPU", "InputType": "int16"}
"""


def network() -> onnx.ModelProto:
    """Return a stem, a GELU, a norm, an attention of two heads and an operator that stays on the CPU: (1, 8, 1, 64)."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"root": np.sqrt(np.float32(2)), "one": np.float32(1), "half": np.float32(0.5)}
    nodes: list[onnx.NodeProto] = []

    def node(op: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def conv(name: str, x: str, inner: int, outer: int, kernel: int = 1) -> str:
        constants[f"{name}.w"] = rng.normal(0, (inner * kernel * kernel) ** -0.5, (outer, inner, kernel, kernel))
        return node("Conv", name, x, f"{name}.w", kernel_shape=[kernel] * 2, strides=[kernel] * 2)

    constants |= {"apart": np.array([1, 2, 4, 64], np.int64), "together": np.array([1, 8, 1, 64], np.int64)}
    x = node("Relu", "stem.relu", conv("stem", "x", 3, 8, 4))
    a = conv("mlp.fc1", x, 8, 16)
    e = node("Add", "mlp.gelu.add", node("Erf", "mlp.gelu.erf", node("Div", "mlp.gelu.div", a, "root")), "one")
    g = node("Mul", "mlp.gelu.half", node("Mul", "mlp.gelu.mul", a, e), "half")
    x = node("Add", "mlp.add", conv("mlp.fc2", g, 16, 8), x)
    d = conv("norm.centre", x, 8, 8)
    variance = conv("norm.mean", node("Mul", "norm.square", d, d), 8, 1)
    constants["norm.mean.w"] = np.full((1, 8, 1, 1), 1 / 8)
    s = node("Sqrt", "norm.sqrt", variance)
    x = node("Mul", "norm.mul", d, node("Reciprocal", "norm.reciprocal", s))
    heads = [node("Reshape", f"attention.{n}.heads", conv(f"attention.{n}", x, 8, 8), "apart") for n in ("q", "k", "v")]
    turned = node("Transpose", "attention.turn", heads[0], perm=[0, 1, 3, 2])
    scores = node("Softmax", "attention.softmax", node("MatMul", "attention.product", turned, heads[1]), axis=3)
    back = node("Transpose", "attention.back", scores, perm=[0, 1, 3, 2])
    x = node("Reshape", "attention.join", node("MatMul", "attention.values", heads[2], back), "together")
    x = conv("tail", node("LpNormalization", "norm2", conv("projection", x, 8, 8), axis=1), 8, 4)
    tensors = [
        numpy_helper.from_array(np.asarray(v, np.int64 if np.asarray(v).dtype == np.int64 else np.float32), k)
        for k, v in constants.items()
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])]
    made = [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "small", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def write(folder: Path, march: str, info: str = "", level: str = "O0") -> None:
    """Write the tool's inputs into ``folder``."""
    onnx.save(network(), folder / "m.onnx")
    (folder / "c.yaml").write_text(CONFIG.format(march=march, info=info, level=level))
    (folder / "cal_f32").mkdir()
    rng = np.random.default_rng(1)
    for i in range(4):
        rng.integers(0, 256, (3, 32, 32)).astype(np.float32).tofile(folder / "cal_f32" / f"{i}.bin")


def record(name: str, march: str, arguments: tuple[str, ...], info: str = "", level: str = "O0") -> None:
    """Run the tool once, and keep its output, log and quant_info.json under ``name``."""
    tool = installed()
    assert tool is not None, "bpudeploy toolchain install"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, march, info, level)
        argv = [str(tool.bin / "hb_mapper"), *arguments]
        done = subprocess.run(argv, cwd=folder, env=tool.environment(), capture_output=True, check=False)
        text = (done.stdout + done.stderr).decode().replace(place, "/work")
        (LOGS / f"{name}.console").write_text(text)
        (log,) = folder.glob("hb_mapper_*.log")
        (LOGS / f"{name}.log").write_text(log.read_text().replace(place, "/work"))
        for found in folder.glob("out/*quant_info.json"):
            shutil.copyfile(found, LOGS / f"{name}.quant_info.json")
    print(f"{name}: exit status {done.returncode}, {len(text)} characters")


def main() -> None:
    """Record all logs."""
    build = ("makertbin", "--model-type", "onnx", "--config", "c.yaml")
    for march in ("bernoulli2", "bayes", "bayes-e"):
        record(f"makertbin-{march}", march, build)
        record(f"checker-{march}", march, ("checker", "--model-type", "onnx", "--march", march, "--model", "m.onnx"))
    record("makertbin-int16", "bayes-e", build, info=INFO)
    record("makertbin-refused", "bayes-e", build, level="O9")
    record("makertbin-failed", "bernoulli2", build, info=INFO)


if __name__ == "__main__":
    main()
