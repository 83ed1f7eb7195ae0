"""hb_compile's YAML (S100): its groups and keys as the vendor's OE-Skills document them."""

from __future__ import annotations

from typing import Literal

from bpudeploy.backends.horizon.document import Document, Group
from bpudeploy.backends.horizon.network import COMPILE_IMAGES, MODEL, OUT, PREFIX, Network
from bpudeploy.spec.compile_options import (
    CalibrationType,
    CompileMode,
    HbCompileOptions,
    InputType,
    OptimizeLevel,
)
from bpudeploy.spec.target import March

QUANT_CONFIG = "quant_config.json"


class ModelParameters(Group):
    """What is compiled, and for which march."""

    onnx_model: str
    march: March
    output_model_file_prefix: str
    working_dir: str


class InputParameters(Group):
    """What the network was trained on, and what the board feeds; input_layout_rt and norm_type are deprecated."""

    input_name: str
    input_type_train: Literal["rgb"] = "rgb"
    input_type_rt: InputType
    input_layout_train: Literal["NCHW"] = "NCHW"
    input_shape: str
    mean_value: str
    """0..255 units, joined with spaces."""
    scale_value: str
    """1 / (255 * std), applied to (x - mean)."""


class CalibrationParameters(Group):
    """The images, which have mean and scale applied already, and how thresholds come from them."""

    cal_data_dir: str
    quant_config: str
    calibration_type: CalibrationType | None = None
    """The tool's search when left out."""
    max_percentile: float | None = None
    per_channel: bool | None = None
    optimization: str | None = None


class CompilerParameters(Group):
    """What the binary is optimised for."""

    compile_mode: CompileMode
    balance_factor: int | None = None
    debug: bool
    core_num: int
    optimize_level: OptimizeLevel
    max_time_per_fc: int | None = None
    jobs: int | None = None


class CompileConfig(Document):
    """The whole file."""

    model_parameters: ModelParameters
    input_parameters: InputParameters
    calibration_parameters: CalibrationParameters
    compiler_parameters: CompilerParameters


def compile_config(network: Network, options: HbCompileOptions) -> CompileConfig:
    """Return what hb_compile is told; the precisions are in QUANT_CONFIG, beside it."""
    return CompileConfig(
        model_parameters=ModelParameters(
            onnx_model=MODEL, march=network.march, output_model_file_prefix=PREFIX, working_dir=OUT
        ),
        input_parameters=InputParameters(
            input_name=network.name,
            input_type_rt=options.input_type_rt,
            input_shape=network.input_shape,
            mean_value=network.mean_value,
            scale_value=network.scale_value,
        ),
        calibration_parameters=CalibrationParameters(
            cal_data_dir=COMPILE_IMAGES,
            quant_config=QUANT_CONFIG,
            calibration_type=options.calibration_type,
            max_percentile=options.max_percentile,
            per_channel=options.per_channel,
            optimization=",".join(options.optimization) or None,
        ),
        compiler_parameters=CompilerParameters(
            compile_mode=options.compile_mode or CompileMode.LATENCY,
            balance_factor=options.balance_factor,
            debug=bool(options.debug),
            core_num=options.core_num or 1,
            optimize_level=options.optimize_level or OptimizeLevel.O2,
            max_time_per_fc=options.max_time_per_fc,
            jobs=options.jobs,
        ),
    )
