"""A small network, a YAML that both tools take, and calibration data, to start refusals from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Edit = dict[str, dict[str, Any]]
"""Group to key to value; None takes a key, or a group, away."""


def network(
    shape: Sequence[int | str] = (1, 3, 8, 8),
    *,
    opset: int = 11,
    ir: int = 6,
    nodes: Sequence[Any] | None = None,
    outputs: int = 1,
) -> Any:
    """Return a convolution, a Relu, a Softmax and a pool; ``nodes`` go between the Relu and the pool instead."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    middle = [helper.make_node("Softmax", ["r"], ["m"], name="/head/Softmax", axis=3)] if nodes is None else list(nodes)
    every = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="/stem/Conv", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="/stem/Relu"),
        *middle,
        *(helper.make_node("Sigmoid", ["m"], [f"y{i}"], name=f"/out{i}/Sigmoid") for i in range(outputs)),
    ]
    sides = [shape[0], 4, *shape[2:]] if len(shape) == 4 else None
    graph = helper.make_graph(
        every,
        "main_graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, sides) for i in range(outputs)],
        [numpy_helper.from_array(weight, "w")],
    )
    domains = [helper.make_opsetid(d, 1) for d in sorted({n.domain for n in every} - {""})]
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=ir, producer_name="pytorch"
    )


def save(model: Any, path: Path) -> Path:
    """Write the model."""
    import onnx

    onnx.save(model, str(path))
    return path


def config_b(march: str = "bayes-e") -> Edit:
    """Return a YAML that family B compiles."""
    return {
        "model_parameters": {
            "onnx_model": "m.onnx",
            "march": march,
            "working_dir": "out",
            "output_model_file_prefix": "m",
        },
        "input_parameters": {
            "input_name": "x",
            "input_type_train": "rgb",
            "input_type_rt": "nv12",
            "input_layout_train": "NCHW",
            "norm_type": "data_mean_and_scale",
            "mean_value": "123.675 116.28 103.53",
            "scale_value": "0.01712 0.0175 0.01743",
        },
        "calibration_parameters": {
            "cal_data_dir": "cal_f32",
            "cal_data_type": "float32",
            "calibration_type": "default",
        },
        "compiler_parameters": {"compile_mode": "latency", "optimize_level": "O3"},
    }


def config_h(march: str = "nash-e") -> Edit:
    """Return a YAML that family H compiles."""
    made = config_b(march)
    made["input_parameters"] = {
        "input_type_train": "rgb",
        "input_type_rt": "nv12",
        "input_layout_train": "NCHW",
        "mean_value": "123.675 116.28 103.53",
        "scale_value": "0.01712 0.0175 0.01743",
    }
    made["calibration_parameters"] = {"cal_data_dir": "cal_npy", "calibration_type": "max"}
    made["compiler_parameters"] = {"compile_mode": "latency", "optimize_level": "O2"}
    return made


def edited(config: Edit, edit: dict[str, Any]) -> Edit:
    """Return ``config`` with some keys changed, added or taken away."""
    made = {group: dict(fields) for group, fields in config.items()}
    for group, fields in edit.items():
        if fields is None:
            made.pop(group)
            continue
        if not isinstance(fields, dict):
            made[group] = fields
            continue
        for key, value in fields.items():
            if value is None:
                made[group].pop(key, None)
            else:
                made.setdefault(group, {})[key] = value
    return made


def write(folder: Path, config: Edit, model: Any | None = None, samples: int = 3) -> Path:
    """Write the model, both kinds of calibration data and ``c.yaml`` into ``folder``."""
    import yaml

    save(network() if model is None else model, folder / "m.onnx")
    rng = np.random.default_rng(1)
    for name in ("cal_f32", "cal_npy"):
        (folder / name).mkdir()
    for i in range(samples):
        image = rng.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32)
        image.tofile(folder / "cal_f32" / f"{i}.rgb")
        np.save(folder / "cal_npy" / f"{i}.npy", image)
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    return folder / "c.yaml"
