"""hb_mapper's YAML (X3, X5, Ultra): its groups and keys as the vendor's ptq_process documents them."""

from __future__ import annotations

from typing import Literal

from bpudeploy.backends.horizon.document import Document, Group, NodeMap
from bpudeploy.backends.horizon.network import MAPPER_IMAGES, MODEL, OUT, PREFIX, Network
from bpudeploy.quantize import vendor
from bpudeploy.spec.compile_options import (
    CalibrationType,
    CompileMode,
    HbMapperOptions,
    InputType,
    OptimizeLevel,
)
from bpudeploy.spec.target import March


class ModelParameters(Group):
    """What is compiled, and for which march."""

    onnx_model: str
    march: March
    output_model_file_prefix: str
    working_dir: str
    layer_out_dump: bool = False
    """True would slow the binary down."""
    node_info: NodeMap | None = None
    """On X3 it takes int8 and ON only, which run_on_cpu and run_on_bpu say as well."""


class InputParameters(Group):
    """What the network was trained on, and what the board feeds."""

    input_name: str
    input_type_train: Literal["rgb"] = "rgb"
    input_type_rt: InputType
    input_layout_train: Literal["NCHW"] = "NCHW"
    input_layout_rt: Literal["NHWC"] | None = None
    """nv12 has a layout of its own."""
    input_shape: str
    norm_type: Literal["data_mean_and_scale"] = "data_mean_and_scale"
    mean_value: str
    """0..255 units, joined with spaces."""
    scale_value: str
    """1 / (255 * std), applied to (x - mean)."""


class CalibrationParameters(Group):
    """The images, and how thresholds come from them."""

    cal_data_dir: str
    cal_data_type: Literal["float32"] = "float32"
    calibration_type: CalibrationType
    max_percentile: float | None = None
    per_channel: bool | None = None
    run_on_cpu: str | None = None
    run_on_bpu: str | None = None
    optimization: str | None = None


class CompilerParameters(Group):
    """What the binary is optimised for."""

    compile_mode: CompileMode
    debug: bool
    core_num: int
    optimize_level: OptimizeLevel
    max_time_per_fc: int | None = None
    jobs: int | None = None


class MapperConfig(Document):
    """The whole file."""

    model_parameters: ModelParameters
    input_parameters: InputParameters
    calibration_parameters: CalibrationParameters
    compiler_parameters: CompilerParameters


def mapper_config(network: Network, options: HbMapperOptions) -> MapperConfig:
    """Return what hb_mapper is told: the recipe's options, the preprocessing, and quantize's precisions.

    Raises:
        StageError: the network was quantized for another march.
    """
    x3 = network.march is March.BERNOULLI2
    forced = vendor.run_on_options(network.quantized, network.march, network.on_cpu) if x3 else {}
    info = None if x3 else vendor.node_info(network.quantized, network.march, network.on_cpu)
    return MapperConfig(
        model_parameters=ModelParameters(
            onnx_model=MODEL,
            march=network.march,
            output_model_file_prefix=PREFIX,
            working_dir=OUT,
            node_info=info or None,
        ),
        input_parameters=InputParameters(
            input_name=network.name,
            input_type_rt=options.input_type_rt,
            input_layout_rt=None if options.input_type_rt is InputType.NV12 else "NHWC",
            input_shape=network.input_shape,
            mean_value=network.mean_value,
            scale_value=network.scale_value,
        ),
        calibration_parameters=CalibrationParameters(
            cal_data_dir=MAPPER_IMAGES,
            calibration_type=options.calibration_type or CalibrationType.DEFAULT,
            max_percentile=options.max_percentile,
            per_channel=options.per_channel,
            run_on_cpu=forced.get("run_on_cpu"),
            run_on_bpu=forced.get("run_on_bpu"),
            optimization=";".join(options.optimization) or None,
        ),
        compiler_parameters=CompilerParameters(
            compile_mode=options.compile_mode or CompileMode.LATENCY,
            debug=bool(options.debug),
            core_num=options.core_num or 1,
            optimize_level=options.optimize_level or OptimizeLevel.O3,
            max_time_per_fc=options.max_time_per_fc,
            jobs=options.jobs,
        ),
    )
