"""The vendor's documented operator support of each march: data in ``ops/``, each fact with its source."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March

Range = tuple[int, int]


class Support(StrEnum):
    """Where an operator can run."""

    BPU = "bpu"
    CONDITIONAL = "conditional"  # BPU if every limit holds, else CPU
    CPU = "cpu"
    COMPOSITE = "composite"  # decomposed by the tool into ``parts``
    UNSUPPORTED = "unsupported"  # neither: the tool refuses the model


class Rule(StrEnum):
    """A limit as the vendor words it; each is evaluated, or reported as not checked, in ``limits``."""

    ANY = "any"
    H_AND_W = "H,W only"
    AS_MUL = "as Mul"
    ADD_SAME = "NCHW+NCHW"
    ADD_CHANNEL = "NCHW+NC11"
    MUL_SAME = "1CHW*1CHW"
    MUL_CHANNEL = "1CHW*1C11"
    MUL_NUMBER = "1CHW*1111"
    TWO_WAY_MERGED = "two-way; >4 dims only if mergeable"
    ONE_SIDE = "one side only"
    TWO_FEATURE_MAPS = "both feature maps"
    SMALL_DILATION = "1, 2 or 4; h<=w"
    POOL_OF_FACTORS = "1..7, or the stride of it a product of 2, 3, 5, 7"
    TRANSPOSED_PAD = "k >= 2 pad + stride above stride 2"
    STRIDE_WITH_ADD = "any; 1 or 2 when fused with a following Add"
    STRIDE_ORDER = "stride_h <= stride_w"
    DILATED = "stride 1"
    SCALAR = "scalar"
    POWER_OF_TWO_FACTOR = "power of two, H<=W"
    INDICES = "int32 feature map, or int32/int64 constant"
    CONST_WEIGHT = "K,MxK,1xMxK,1x1xMxK,BxMxK,1xBxMxK,AxBxMxK by KxN forms"
    MATMUL_FEATURE_MAPS = "only 1xBxMxK by 1x1xKxN"
    LIMITS_OF_CONV = "limits of Conv"
    GEMM_IO = "before a BPU op H*W/8*C/4<=1024, else <2048"


class Limits(Frozen):
    """The limits of an operator, by the keys of the source; a range is (least, most)."""

    rank: Range | Rule | None = None
    max_rank: int | None = None
    max_channels: int | None = None
    max_channels_per_group: int | None = None
    max_channels_plain: int | None = None
    """For a convolution with one group."""
    max_channels_hw1: int | None = None
    """For H = W = 1."""
    kernel_nc: Range | None = None
    kernel_hw: Range | None = None
    kernel: Range | Rule | None = None
    max_kernel_volume: int | None = None
    """C/group * kh * kw of a convolution, kh * kw of a pooling."""
    stride: Range | Rule | None = None
    stride_in: tuple[int, ...] | None = None
    stride_order: Rule | None = None
    dilation: Range | Rule | None = None
    dilation_gt1: Rule | None = None
    pad: Range | Rule | None = None
    output_padding: Range | None = None
    max_hw: int | None = None
    h: Range | None = None
    w: Range | None = None
    max_first_dim: int | None = None
    max_dim: int | None = None
    axis: tuple[int, ...] | None = None
    onnx_axis: tuple[int, ...] | None = None
    torch_axis: tuple[int, ...] | None = None
    not_axis: int | None = None
    axes: tuple[int, ...] | Rule | None = None
    n_axes: int | None = None
    axes_hw_together: bool | None = None
    keepdims: int | None = None
    max_axis: int | None = None
    """Size of the reduced axis."""
    equal_parts: bool | None = None
    dims_changed: int | None = None
    blocksize: int | None = None
    mode: tuple[str, ...] | None = None
    coord: tuple[str, ...] | None = None
    nearest_factor: Rule | None = None
    padding: tuple[str, ...] | None = None
    exponent: Rule | None = None
    shapes: tuple[Rule, ...] | Rule | None = None
    both_featuremaps: bool | None = None
    operands: Rule | None = None
    values_nonzero: bool | None = None
    broadcast: Rule | None = None
    max_const_inputs: int | None = None
    same_rank: bool | None = None
    max_mkn: int | None = None
    """For K only: the document also limits M and N, but the checker accepts more."""
    max_kn_many_rows: Range | None = None
    """K and N of a constant factor if the other has more than one row."""
    max_other_dim: int | None = None
    const_weight: Rule | None = None
    two_featuremaps: Rule | None = None
    indices: Rule | None = None
    only_graph_output: bool | None = None
    hw_le_7: Rule | None = None
    io: Rule | None = None
    enable: str | None = None
    """The compiler option that puts it on the BPU."""
    lowered_to: str | None = None
    parts: tuple[str, ...] | None = None
    note: str | None = None

    def given(self) -> tuple[str, ...]:
        """Return the names of the limits that are set."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class OpFact(Frozen):
    """One operator on one march."""

    device: Support
    dtypes: tuple[str, ...]
    """Supported types of its activations on ``device``."""
    constraints: Limits
    default_placement: Literal[Support.BPU, Support.CPU]
    """Where a node within its limits runs by default."""
    source: str
    confidence: str


class GeneralLimits(Frozen):
    """Limits of every tensor on the BPU."""

    dtypes: tuple[str, ...]
    rank: int | None = None
    max_batch: int | None = None
    max_n: int | None = None
    max_dim: int | None = None
    max_tensor_bytes: int | None = None
    source: str


class ModelRules(Frozen):
    """The compiler's limits for a whole model."""

    opset: Range
    max_ir_version: int | None = None
    max_outputs: int | None = None
    input_rank: int | None = None
    input_batch: int | None = None
    needs_conv: bool = False
    source: str


class OpTable(Frozen):
    """Operator support of one march. ``complete``: it covers the whole list of the vendor."""

    march: March
    board: str
    general: GeneralLimits
    model: ModelRules
    complete: bool
    notes: tuple[str, ...]
    same_as: March | None = None
    confidence: str | None = None
    """The confidence of every fact copied from ``same_as``."""
    ops: dict[str, OpFact] = Field(default_factory=dict)


@cache
def op_table(march: March) -> OpTable:
    """Return the table of a BPU march.

    Raises:
        KeyError: the march is not a BPU.
    """
    if march is March.CPU:
        raise KeyError(march)
    text = resources.files("bpudeploy.conformance").joinpath("ops", f"{march}.json").read_text()
    table = OpTable.model_validate_json(text)
    if table.same_as is None:
        return table
    assumed = {"confidence": table.confidence}
    ops = {name: fact.model_copy(update=assumed) for name, fact in op_table(table.same_as).ops.items()}
    return table.model_copy(update={"ops": ops})
