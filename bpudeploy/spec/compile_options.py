"""Options of each compile backend, under the backend's name."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Int16Cost


class OptimizeLevel(StrEnum):
    """Optimization level of a vendor compiler; the march determines which levels exist."""

    O0 = "O0"
    O1 = "O1"
    O2 = "O2"
    O3 = "O3"


class CompileMode(StrEnum):
    """Optimization goal of a vendor compiler."""

    LATENCY = "latency"
    BANDWIDTH = "bandwidth"
    BALANCE = "balance"


class InputType(StrEnum):
    """Input format on the board; mean and scale are part of the binary in both cases."""

    NV12 = "nv12"  # native format of cameras and decoders: height and width must be even
    RGB = "rgb"  # no loss by colour conversion


class CalibrationType(StrEnum):
    """How a vendor compiler chooses thresholds."""

    RECIPE = "recipe"  # those of the recipe's quantize:, so that the binary computes what was scored
    DEFAULT = "default"  # tries max and kl, per tensor and per channel, and keeps the closest to float
    MIX = "mix"  # the same, node by node
    KL = "kl"
    MAX = "max"


class OrtOptions(Frozen):
    """onnxruntime on the board's CPU has no options."""


_HOST: Any = {"exclude": True}
"""An option of the compiling machine, not of the binary: not part of the cache key, valid for every march."""
Optimization = Annotated[
    str, Field(pattern=r"^set_(all_nodes_int16|(model_output|[A-Z]\w*_(input|output))_int(8|16))$")
]


class VendorOptions(Frozen):
    """Options of both vendor compilers; the target lists the values that its march allows."""

    optimize_level: Annotated[OptimizeLevel, Field(strict=False)] | None = None
    """Optimization level; O2 by default."""
    compile_mode: Annotated[CompileMode, Field(strict=False)] | None = None
    """Optimization goal; latency by default."""
    core_num: Annotated[int, Field(ge=1, le=4)] | None = None
    """Number of BPU cores per image; 1 by default."""
    input_type_rt: Annotated[InputType, Field(strict=False)] = InputType.NV12
    """Input format on the board; nv12 by default."""
    calibration_type: Annotated[CalibrationType, Field(strict=False)] | None = None
    """How thresholds are chosen. The default is ``recipe`` with the toolchain that bpudeploy installs, otherwise the
    tool's search over max and kl."""
    max_percentile: Annotated[float, Field(gt=0, le=1)] | None = None
    """For ``calibration_type: max``: share of the values that are not clipped, such as 0.99995."""
    per_channel: bool | None = None
    """Whether thresholds are per channel; not with the tool's search, which tries both."""
    calibration_count: Annotated[int, Field(ge=1)] | None = None
    """Number of the recipe's calibration images to pass to the tool; all by default."""
    optimization: Annotated[tuple[Optimization, ...], Field(strict=False)] = ()
    """Optimizations of the tool, such as set_Softmax_output_int8; the recipe's quantize: already sets each node."""
    debug: bool | None = None
    """Keep the statistics of each layer in the binary and in the tool's reports."""
    max_time_per_fc: Annotated[int, Field(ge=0, le=4_294_967_295)] | None = None
    """Longest non-preemptible function call in microseconds, 1000 or more; 0 means no limit."""
    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = Field(None, **_HOST)
    """OpenExplorer container image to run the tool in; by default the installed toolchain, or else the tool on PATH."""
    jobs: Annotated[int, Field(ge=1, le=256)] | None = Field(None, **_HOST)
    """Number of compiler processes; chosen by the tool by default."""
    memory_gib: Annotated[int, Field(ge=1, le=4096)] = Field(16, **_HOST)
    """Memory limit of the container in GiB; 16 by default."""
    minutes: Annotated[int, Field(ge=1, le=10_080)] = Field(360, **_HOST)
    """Time limit of the compiler in minutes; 360 by default."""


class HbMapperOptions(VendorOptions):
    """hb_mapper (X3, X5, Ultra)."""


class HbCompileOptions(VendorOptions):
    """hb_compile (S100)."""

    balance_factor: Annotated[int, Field(ge=0, le=100)] | None = None
    """For ``compile_mode: balance``: from 0 (bandwidth only) to 100 (latency only)."""


class BpuSimOptions(Frozen):
    """Options of the BPU simulator: they affect its predictions, never its results."""

    int16_cost: Int16Cost = Int16Cost(products=2.3, elementwise=2.0)
    """Cost of int16 relative to int8, as assumed by the targets of these marches."""


class CompileOptions(Frozen):
    """One section per backend; only the section of the target's backend is used.

    A third-party backend may have a section under its own name: ``spec.load`` refuses names that are not installed,
    and the backend's own model validates the section.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    ort: OrtOptions | None = None
    """Options of onnxruntime on the board's CPU (none)."""
    hb_mapper: HbMapperOptions | None = None
    """Options of hb_mapper, the vendor compiler for X3, X5 and Ultra."""
    hb_compile: HbCompileOptions | None = None
    """Options of hb_compile, the vendor compiler for S100."""
    bpu_sim: BpuSimOptions | None = None
    """Options of the BPU simulator."""


VENDOR_BACKENDS = ("hb_mapper", "hb_compile")
"""The backends whose options are VendorOptions."""


def is_host_option(options: type[Frozen], name: str) -> bool:
    """Return whether an option is about the compiling machine and so valid for every march."""
    return name in options.model_fields and bool(options.model_fields[name].exclude)


def problems(options: VendorOptions) -> Iterator[tuple[str, str, str]]:
    """Yield field, message and hint of each inconsistency between options."""
    kind, searched = options.calibration_type, (CalibrationType.DEFAULT, CalibrationType.MIX)
    if options.max_percentile is not None and kind is not CalibrationType.MAX:
        yield "max_percentile", "max_percentile requires calibration_type max", "add `calibration_type: max`"
    if options.per_channel is not None and kind in (None, CalibrationType.RECIPE):
        yield "per_channel", "per_channel requires calibration_type max or kl", "add `calibration_type: max` or `kl`"
    if options.per_channel is not None and kind in searched:
        text = f"per_channel does not apply to calibration_type {kind}, which tries both"
        yield "per_channel", text, "add `calibration_type: max` or `kl`, or remove it"
    if options.max_time_per_fc is not None and 0 < options.max_time_per_fc < 1000:
        yield "max_time_per_fc", f"max_time_per_fc {options.max_time_per_fc} must be 0 or at least 1000", "use 1000"
    if isinstance(options, HbCompileOptions):
        yield from _hb_compile_problems(options)


def _hb_compile_problems(options: HbCompileOptions) -> Iterator[tuple[str, str, str]]:
    balanced = options.compile_mode is CompileMode.BALANCE
    if balanced and options.balance_factor is None:
        yield "compile_mode", "compile_mode balance requires a balance_factor", "add `balance_factor: 50` (0 to 100)"
    if not balanced and options.balance_factor is not None:
        yield "balance_factor", "balance_factor requires compile_mode balance", "add `compile_mode: balance`"
    if options.max_time_per_fc is not None and options.max_time_per_fc > 10_000_000:
        yield "max_time_per_fc", f"max_time_per_fc {options.max_time_per_fc} is above 10000000", "use 10000000 or less"
