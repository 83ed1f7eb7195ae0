"""The YAML of both vendor tools: hb_mapper's (X3, X5, Ultra) as in ptq_process, hb_compile's (S100) as in OE-Skills."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from bpudeploy.backends.horizon.network import COMPILE_IMAGES, MAPPER_IMAGES, MODEL, OUT, PREFIX, Network
from bpudeploy.quantize import vendor
from bpudeploy.spec.compile_options import (
    CalibrationType,
    CompileMode,
    HbCompileOptions,
    HbMapperOptions,
    InputType,
    OptimizeLevel,
    VendorOptions,
)
from bpudeploy.spec.target import March

QUANT_CONFIG = "quant_config.json"
Config = dict[str, dict[str, Any]]
"""Groups of keys in the order of the file; a value is a scalar, a map by node, or None, which is omitted."""


def mapper_config(network: Network, options: HbMapperOptions, calibration: CalibrationType) -> Config:
    """Return hb_mapper's configuration: the recipe's options, the preprocessing, and quantize's precisions.

    With the recipe's thresholds, the tool's are the largest values: it needs some for points that the recipe lacks.

    Raises:
        StageError: the network was quantized for another march.
    """
    x3 = network.march is March.BERNOULLI2  # its node_info supports int8 and ON only, which run_on_... cover
    forced = vendor.run_on_options(network.quantized, network.march, network.on_cpu) if x3 else {}
    info = None if x3 else vendor.node_info(network.quantized, network.march, network.on_cpu)
    return {
        "model_parameters": {
            **_model(network),
            "layer_out_dump": False,  # True would slow the binary down
            "node_info": info or None,
        },
        "input_parameters": _input(network, options, deprecated=True),
        "calibration_parameters": {
            "cal_data_dir": MAPPER_IMAGES,
            "cal_data_type": "float32",
            "calibration_type": CalibrationType.MAX if calibration is CalibrationType.RECIPE else calibration,
            "max_percentile": options.max_percentile,
            "per_channel": options.per_channel,
            "run_on_cpu": forced.get("run_on_cpu"),
            "run_on_bpu": forced.get("run_on_bpu"),
            "optimization": ";".join(options.optimization) or None,
        },
        "compiler_parameters": {
            **_compiler(options),
            "debug": options.debug is not False,  # the table of layers, for one more byte in the binary
        },
    }


def compile_config(network: Network, options: HbCompileOptions) -> Config:
    """Return hb_compile's configuration; the precisions are in QUANT_CONFIG, beside it."""
    return {
        "model_parameters": _model(network),
        "input_parameters": _input(network, options, deprecated=False),
        "calibration_parameters": {
            "cal_data_dir": COMPILE_IMAGES,
            "quant_config": QUANT_CONFIG,
            "calibration_type": options.calibration_type,
            "max_percentile": options.max_percentile,
            "per_channel": options.per_channel,
            "optimization": ",".join(options.optimization) or None,
        },
        "compiler_parameters": _compiler(options, options.balance_factor),
    }


def _model(network: Network) -> dict[str, Any]:
    return {
        "onnx_model": MODEL,
        "march": network.march,
        "output_model_file_prefix": PREFIX,
        "working_dir": OUT,
    }


def _input(network: Network, options: VendorOptions, *, deprecated: bool) -> dict[str, Any]:
    """Return the training input, and the board's input; ``deprecated``: with the keys that hb_compile deprecates."""
    nv12 = options.input_type_rt is InputType.NV12  # which implies its own layout
    return {
        "input_name": network.name,
        "input_type_train": "rgb",
        "input_type_rt": options.input_type_rt,
        "input_layout_train": "NCHW",
        "input_layout_rt": "NHWC" if deprecated and not nv12 else None,
        "input_shape": "x".join(map(str, network.shape)),
        "norm_type": "data_mean_and_scale" if deprecated else None,
        "mean_value": join_numbers(255.0 * mean for mean in network.normalisation.mean),  # in units of 0..255
        "scale_value": join_numbers(network.normalisation.scale),  # 1 / (255 * std), applied to (x - mean)
    }


def _compiler(options: VendorOptions, balance_factor: int | None = None) -> dict[str, Any]:
    return {
        "compile_mode": options.compile_mode or CompileMode.LATENCY,
        "balance_factor": balance_factor,
        "debug": bool(options.debug),
        "core_num": options.core_num or 1,
        "optimize_level": options.optimize_level or OptimizeLevel.O2,
        "max_time_per_fc": options.max_time_per_fc,
        "jobs": options.jobs,
    }


def to_yaml(config: Config, comment: str = "") -> str:
    """Return the text. Strings are quoted as in JSON, so YAML 1.1 reads none as a keyword."""
    out = [f"# {line}" for line in comment.splitlines()]
    for name, group in config.items():
        out.append(f"{name}:")
        for key, value in group.items():
            if isinstance(value, dict):
                out.append(f"  {key}:")
                out += [f"    {_scalar(node)}: {json.dumps(x, ensure_ascii=False)}" for node, x in value.items()]
            elif value is not None:
                out.append(f"  {key}: {_scalar(value)}")
    return "\n".join(out) + "\n"


def join_numbers(values: Iterable[float]) -> str:
    """Return numbers joined with spaces, without exponents, as the tools read them."""
    return " ".join(map(_scalar, values))


def _scalar(value: str | float) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")  # YAML 1.1 reads 1e-05 as a string
    return json.dumps(value, ensure_ascii=False)
