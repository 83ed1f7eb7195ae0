"""The YAML of both vendor tools: hb_mapper's (X3, X5, Ultra) as in ptq_process, hb_compile's (S100) as in OE-Skills."""

from __future__ import annotations

from typing import Literal

from bpudeploy.backends.horizon.document import Document, Group, NodeMap
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


class ModelParameters(Group):
    """The network and its march."""

    onnx_model: str = MODEL
    march: March
    output_model_file_prefix: str = PREFIX
    working_dir: str = OUT
    layer_out_dump: bool | None = None
    """True would slow the binary down; hb_mapper only."""
    node_info: NodeMap | None = None
    """hb_mapper only. On X3 it supports int8 and ON only, which run_on_cpu and run_on_bpu cover."""


class InputParameters(Group):
    """The training input, and the board's input; for hb_compile, input_layout_rt and norm_type are deprecated."""

    input_name: str
    input_type_train: Literal["rgb"] = "rgb"
    input_type_rt: InputType
    input_layout_train: Literal["NCHW"] = "NCHW"
    input_layout_rt: Literal["NHWC"] | None = None
    """nv12 implies its own layout."""
    input_shape: str
    norm_type: Literal["data_mean_and_scale"] | None = None
    mean_value: str
    """0..255 units, joined with spaces."""
    scale_value: str
    """1 / (255 * std), applied to (x - mean)."""


class CalibrationParameters(Group):
    """The images, and how thresholds are derived from them; hb_compile's have mean and scale applied."""

    cal_data_dir: str
    cal_data_type: Literal["float32"] | None = None
    quant_config: str | None = None
    calibration_type: CalibrationType | None = None
    """The tool's search by default."""
    max_percentile: float | None = None
    per_channel: bool | None = None
    run_on_cpu: str | None = None
    run_on_bpu: str | None = None
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


class ToolConfig(Document):
    """The whole file."""

    model_parameters: ModelParameters
    input_parameters: InputParameters
    calibration_parameters: CalibrationParameters
    compiler_parameters: CompilerParameters


def mapper_config(network: Network, options: HbMapperOptions) -> ToolConfig:
    """Return hb_mapper's configuration: the recipe's options, the preprocessing, and quantize's precisions.

    Raises:
        StageError: the network was quantized for another march.
    """
    x3 = network.march is March.BERNOULLI2
    forced = vendor.run_on_options(network.quantized, network.march, network.on_cpu) if x3 else {}
    info = None if x3 else vendor.node_info(network.quantized, network.march, network.on_cpu)
    inputs = _input(network, options)
    layout = None if options.input_type_rt is InputType.NV12 else "NHWC"
    return ToolConfig(
        model_parameters=ModelParameters(march=network.march, layer_out_dump=False, node_info=info or None),
        input_parameters=inputs.model_copy(update={"input_layout_rt": layout, "norm_type": "data_mean_and_scale"}),
        calibration_parameters=CalibrationParameters(
            cal_data_dir=MAPPER_IMAGES,
            cal_data_type="float32",
            calibration_type=options.calibration_type or CalibrationType.DEFAULT,
            max_percentile=options.max_percentile,
            per_channel=options.per_channel,
            run_on_cpu=forced.get("run_on_cpu"),
            run_on_bpu=forced.get("run_on_bpu"),
            optimization=";".join(options.optimization) or None,
        ),
        compiler_parameters=_compiler(options, OptimizeLevel.O3),
    )


def compile_config(network: Network, options: HbCompileOptions) -> ToolConfig:
    """Return hb_compile's configuration; the precisions are in QUANT_CONFIG, beside it."""
    return ToolConfig(
        model_parameters=ModelParameters(march=network.march),
        input_parameters=_input(network, options),
        calibration_parameters=CalibrationParameters(
            cal_data_dir=COMPILE_IMAGES,
            quant_config=QUANT_CONFIG,
            calibration_type=options.calibration_type,
            max_percentile=options.max_percentile,
            per_channel=options.per_channel,
            optimization=",".join(options.optimization) or None,
        ),
        compiler_parameters=_compiler(options, OptimizeLevel.O2, options.balance_factor),
    )


def _input(network: Network, options: VendorOptions) -> InputParameters:
    return InputParameters(
        input_name=network.name,
        input_type_rt=options.input_type_rt,
        input_shape=network.input_shape,
        mean_value=network.mean_value,
        scale_value=network.scale_value,
    )


def _compiler(options: VendorOptions, highest: OptimizeLevel, balance_factor: int | None = None) -> CompilerParameters:
    return CompilerParameters(
        compile_mode=options.compile_mode or CompileMode.LATENCY,
        balance_factor=balance_factor,
        debug=bool(options.debug),
        core_num=options.core_num or 1,
        optimize_level=options.optimize_level or highest,
        max_time_per_fc=options.max_time_per_fc,
        jobs=options.jobs,
    )
