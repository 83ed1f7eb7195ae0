"""Options of each compile backend, under the backend's own name."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Int16Cost


class OptimizeLevel(StrEnum):
    """How hard a vendor compiler works; which levels exist depends on the march."""

    O0 = "O0"
    O1 = "O1"
    O2 = "O2"
    O3 = "O3"


class CompileMode(StrEnum):
    """What a vendor compiler optimises for."""

    LATENCY = "latency"
    BANDWIDTH = "bandwidth"
    BALANCE = "balance"


class InputType(StrEnum):
    """What the board will feed; mean and scale are inside the binary either way."""

    NV12 = "nv12"  # a camera's and a decoder's own format: height and width must be even
    RGB = "rgb"  # nothing is lost to a colour conversion


class CalibrationType(StrEnum):
    """How a vendor compiler chooses its thresholds."""

    DEFAULT = "default"  # tries max and kl, per tensor and per channel, and takes what is nearest to float
    MIX = "mix"  # the same, node by node
    KL = "kl"
    MAX = "max"


class OrtOptions(Frozen):
    """onnxruntime on the board's CPU: it has nothing to choose."""


_HOST: Any = {"exclude": True}
"""An option about this machine, not about the binary: it is in no key, and every march has it."""
Optimization = Annotated[
    str, Field(pattern=r"^set_(all_nodes_int16|(model_output|[A-Z]\w*_(input|output))_int(8|16))$")
]


class VendorOptions(Frozen):
    """What both vendor compilers have; the target says which values its march has."""

    optimize_level: Annotated[OptimizeLevel, Field(strict=False)] | None = None
    """The march's highest when left out."""
    compile_mode: Annotated[CompileMode, Field(strict=False)] | None = None
    """latency when left out."""
    core_num: Annotated[int, Field(ge=1, le=4)] | None = None
    """BPU cores that one image is spread over; 1 when left out."""
    input_type_rt: Annotated[InputType, Field(strict=False)] = InputType.NV12
    """What the board will feed."""
    calibration_type: Annotated[CalibrationType, Field(strict=False)] | None = None
    """How thresholds are chosen; the tool's search over max and kl when left out."""
    max_percentile: Annotated[float, Field(gt=0, le=1)] | None = None
    """For ``calibration_type: max``: the share of values that is not clipped, such as 0.99995."""
    per_channel: bool | None = None
    """Thresholds per channel; not with the tool's search, which tries both."""
    calibration_count: Annotated[int, Field(ge=1)] | None = None
    """How many of the recipe's calibration images the tool is given; all when left out."""
    optimization: Annotated[tuple[Optimization, ...], Field(strict=False)] = ()
    """The tool's own, such as set_Softmax_output_int8; the recipe's quantize: says it node by node already."""
    debug: bool | None = None
    """Keep the figures of each layer in the binary and in the tool's pages."""
    max_time_per_fc: Annotated[int, Field(ge=0, le=4_294_967_295)] | None = None
    """Longest piece that cannot be pre-empted, in microseconds (1000 or more); 0 does not cut."""
    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = Field(None, **_HOST)
    """The OpenExplorer container to run the tool in; from PATH when left out."""
    jobs: Annotated[int, Field(ge=1, le=256)] | None = Field(None, **_HOST)
    """Processes of the compiler; the tool's own choice when left out."""
    memory_gib: Annotated[int, Field(ge=1, le=4096)] = Field(16, **_HOST)
    """The container's memory limit, in GiB."""
    minutes: Annotated[int, Field(ge=1, le=10_080)] = Field(360, **_HOST)
    """The compiler is stopped when it takes longer."""


class HbMapperOptions(VendorOptions):
    """hb_mapper (X3, X5, Ultra)."""


class HbCompileOptions(VendorOptions):
    """hb_compile (S100)."""

    balance_factor: Annotated[int, Field(ge=0, le=100)] | None = None
    """For ``compile_mode: balance``: 0 is all bandwidth, 100 all latency."""


class BpuSimOptions(Frozen):
    """The simulator of a march computes the same whatever is here; what it predicts depends on it."""

    int16_cost: Int16Cost = Int16Cost(products=4.0, elementwise=2.0)
    """How many times longer int16 takes, as the targets of these marches assume."""


class CompileOptions(Frozen):
    """One section a backend; only the section of the target's backend is read.

    A backend of another package may have a section under its own name: ``spec.load`` refuses names that are
    not installed, and the backend's own model validates what is in it.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    ort: OrtOptions | None = None
    hb_mapper: HbMapperOptions | None = None
    hb_compile: HbCompileOptions | None = None
    bpu_sim: BpuSimOptions | None = None


VENDORS = ("hb_mapper", "hb_compile")
"""The backends whose options are VendorOptions."""


def is_of_this_machine(options: type[Frozen], name: str) -> bool:
    """Say whether an option is about the machine that compiles: no march forbids it."""
    return name in options.model_fields and bool(options.model_fields[name].exclude)


def problems(options: VendorOptions) -> Iterator[tuple[str, str, str]]:
    """Yield field, what is wrong and the fix, for what one option alone cannot say."""
    kind, searched = options.calibration_type, (None, CalibrationType.DEFAULT, CalibrationType.MIX)
    if options.max_percentile is not None and kind is not CalibrationType.MAX:
        yield "max_percentile", "max_percentile is read with calibration_type max", "add `calibration_type: max`"
    if options.per_channel is not None and kind in searched:
        yield (
            "per_channel",
            f"per_channel is not for calibration_type {kind or CalibrationType.DEFAULT}, which tries both",
            "add `calibration_type: max` or `kl`, or remove it",
        )
    if options.max_time_per_fc is not None and 0 < options.max_time_per_fc < 1000:
        yield "max_time_per_fc", f"max_time_per_fc {options.max_time_per_fc} is neither 0 nor 1000 or more", "use 1000"
    if isinstance(options, HbCompileOptions):
        yield from _of_hb_compile(options)


def _of_hb_compile(options: HbCompileOptions) -> Iterator[tuple[str, str, str]]:
    balanced = options.compile_mode is CompileMode.BALANCE
    if balanced and options.balance_factor is None:
        yield "compile_mode", "compile_mode balance needs a balance_factor", "add `balance_factor: 50` (0 to 100)"
    if not balanced and options.balance_factor is not None:
        yield "balance_factor", "balance_factor is read with compile_mode balance", "add `compile_mode: balance`"
    if options.max_time_per_fc is not None and options.max_time_per_fc > 10_000_000:
        yield "max_time_per_fc", f"max_time_per_fc {options.max_time_per_fc} is above 10000000", "use 10000000 or less"
