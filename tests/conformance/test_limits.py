"""One case per limit: a node just inside runs on the BPU, one just outside on the CPU with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bpudeploy.conformance.limits.check import CHECKS
from bpudeploy.conformance.report import Device, Form
from bpudeploy.conformance.table import Limits
from bpudeploy.spec.target import March
from tests.conformance.graphs import S100, ULTRA, X3, X5, ints, one, zeros


@dataclass(frozen=True)
class Case:
    """A node within its limits, and the change that violates one."""

    op: str
    march: March
    shapes: list[tuple[int, ...]]
    breaks: dict[str, Any]
    says: str
    weights: tuple[Any, ...] = ()
    keeps: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.op} {self.march}: {self.says}"


IMAGE = (1, 8, 16, 16)
K3 = (zeros(8, 8, 3, 3),)
CASES = [
    Case("Conv", X3, [IMAGE], {"weights": (zeros(8, 8, 14, 14),)}, "kernel 14x14, the limit is 7", K3),
    Case(
        "Conv",
        X5,
        [(1, 4096, 4, 4)],
        {"weights": (zeros(1, 4096, 3, 3),)},
        "36864, the limit is 32767",
        (zeros(1, 4096, 1, 1),),
    ),
    Case(
        "Conv",
        X3,
        [(1, 8, 2, 2)],
        {"weights": (zeros(4100, 8, 1, 1),)},
        "output channels per group 4100, the limit is 4096",
        (zeros(4096, 8, 1, 1),),
    ),
    Case("Conv", X5, [(1, 8, 600, 600)], {"strides": [300, 300]}, "stride 300x300, the limit is 256", K3),
    Case("Conv", X5, [IMAGE], {"dilations": [17, 1], "pads": [17, 0, 17, 0]}, "dilation 17x1, the limit is 16", K3),
    Case("Conv", X3, [IMAGE], {"dilations": [2, 1], "strides": [2, 2]}, "that of H must not exceed", K3),
    Case("Conv", X5, [IMAGE], {"pads": [257, 0, 0, 0]}, "pads 257x0x0x0, the limit is 256", K3),
    Case("ConvTranspose", X3, [IMAGE], {"strides": [3, 3]}, "stride 3x3, must be 2 or 4", K3, {"strides": [2, 2]}),
    Case(
        "ConvTranspose",
        X5,
        [IMAGE],
        {"strides": [3, 3], "output_padding": [2, 2]},
        "output padding 2x2, the limit is 1",
        K3,
        {"strides": [3, 3], "output_padding": [1, 1]},
    ),
    Case(
        "MaxPool",
        X3,
        [(1, 8, 99, 99)],
        {"kernel_shape": [65, 65]},
        "kernel 65x65, the limit is 64",
        (),
        {"kernel_shape": [64, 64]},
    ),
    Case(
        "AveragePool",
        X5,
        [(1, 8, 99, 99)],
        {"kernel_shape": [91, 91]},
        "kh*kw of the kernel is 8281",
        (),
        {"kernel_shape": [90, 90]},
    ),
    Case("GlobalMaxPool", X5, [(1, 8, 256, 256)], {"shapes": [(1, 8, 257, 256)]}, "H 257, the limit is 256"),
    Case("GlobalMaxPool", X5, [(1, 8, 256, 256)], {"shapes": [(1, 8, 256, 257)]}, "W 257, the limit is 256"),
    Case("Add", ULTRA, [(1, 8, 16)] * 2, {"shapes": [(1, 1, 1, 1, 8, 16)] * 2}, "must have 2 to 5 dimensions"),
    Case("Mul", X3, [(1, 2048, 2, 2)] * 2, {"shapes": [(1, 2049, 2, 2)] * 2}, "channels 2049, the limit is 2048"),
    Case(
        "Max", ULTRA, [IMAGE, (1, 1, 16, 16)], {"shapes": [(1, 8, 1, 16), (1, 1, 16, 16)]}, "both sides are broadcast"
    ),
    Case(
        "ReduceMean", X5, [IMAGE], {"axes": [1, 2]}, "it reduces 2 axes at once, the limit is 1", (), {"axes": [-1, -2]}
    ),
    Case(
        "ReduceMax",
        X5,
        [(1, 8, 1, 8192)],
        {"shapes": [(1, 8, 1, 8193)], "axes": [3]},
        "size of the reduced axis 8193, the limit is 8192",
        (),
        {"axes": [3]},
    ),
    Case("MatMul", X3, [(9, 4)], {"shapes": [(1, 1, 1, 9, 4)]}, "must have 4 dimensions or less", (zeros(4, 5),)),
    Case("MatMul", X5, [(1, 8, 9, 4), (1, 8, 4, 5)], {"shapes": [(1, 9, 4), (4, 5)]}, "both must have the same rank"),
    Case(
        "MatMul",
        X5,
        [(1, 4096, 2, 4), (1, 1, 4, 5)],
        {"shapes": [(1, 4097, 2, 4), (1, 1, 4, 5)]},
        "batch dimension 4097, the limit is 4096",
    ),
    Case(
        "MatMul", X5, [(2, 8, 9, 4), (1, 1, 4, 5)], {"shapes": [(2, 1, 9, 4), (1, 8, 4, 5)]}, "both sides are broadcast"
    ),
    Case(
        "Concat",
        X3,
        [(1, 1024, 2, 2)] * 2,
        {"shapes": [(1, 1025, 2, 2)] * 2, "axis": 1},
        "channels 2050, the limit is 2048",
        (),
        {"axis": 1},
    ),
    Case(
        "Split",
        X3,
        [(4, 8, 16, 16)],
        {"axis": 0, "outputs": 2},
        "axis 0, must be 1 or 2 or 3",
        (),
        {"axis": 1, "outputs": 2},
    ),
    Case("Gather", X5, [(4, 3, 2, 2)], {"shapes": [(4, 3, 2, 2, 2)]}, "rank 5, the limit is 4", (ints(1, 2),)),
    Case(
        "Expand",
        X5,
        [(1, 1, 16, 16)],
        {"weights": (ints(2, 8, 16, 16),)},
        "dimensions that change 2, the limit is 1",
        (ints(1, 8, 16, 16),),
    ),
    Case(
        "Gemm",
        X3,
        [(1, 16384)],
        {"shapes": [(1, 16390)], "weights": (zeros(2, 16390),), "transB": 1},
        "channels 16390, the limit is 16384",
        (zeros(2, 16384),),
        {"transB": 1},
    ),
    Case(
        "Reshape",
        X5,
        [(1, 8, 16, 512)],
        {"shapes": [(1, 9, 16, 512)]},
        "dimension 73728, the limit is 65536",
        (ints(1, -1),),
    ),
    Case("Relu", X3, [(128, 1, 2, 2)], {"shapes": [(129, 1, 2, 2)]}, "batch 129, the limit is 128"),
    Case("Relu", X5, [(4096, 1, 2, 2)], {"shapes": [(4097, 1, 2, 2)]}, "N is 4097, the limit is 4096"),
    Case(
        "Relu",
        X5,
        [(1, 2, 16384, 32768)],
        {"shapes": [(1, 3, 16384, 32768)]},
        "bytes 1610612736, the limit is 1073741824",
    ),
    Case(
        "Slice", ULTRA, [IMAGE], {"shapes": [(1, 8, 16)]}, "3-D tensor 1x8x16, must be 4-D", (ints(0), ints(4), ints(2))
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_a_limit_decides(case: Case) -> None:
    given = {"shapes": case.shapes, "weights": case.weights}
    inside = one(case.op, march=case.march, **{**given, **case.keeps})
    outside = one(case.op, march=case.march, **{**given, **case.breaks})
    assert (inside.device, outside.device) == (Device.BPU, Device.CPU), (inside.reason, outside.reason)
    assert case.says in outside.reason


RESIZE: dict[str, Any] = {"op": "Resize", "shapes": [IMAGE], "march": X5}


def test_resize() -> None:
    def scaled(*by: float, **attributes: Any) -> Any:
        weights = (zeros(0), np.array(by, np.float32))
        return one(**RESIZE, weights=weights, **attributes)

    assert scaled(1, 1, 2, 2).device is Device.BPU
    half = scaled(1, 1, 2, 2, mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn")
    assert "coordinates tf_half_pixel_for_nn" in half.reason
    assert scaled(1, 1, 3, 3, mode="linear").device is Device.BPU


def test_grid_sample() -> None:
    shapes: list[tuple[int, ...]] = [(1, 3, 512, 512), (1, 4, 4, 2)]
    assert one("GridSample", shapes, X5, opset=16).device is Device.BPU
    assert "H*W is 262656" in one("GridSample", [(1, 3, 513, 512), (1, 4, 4, 2)], X5, opset=16).reason
    assert one("GridSample", [(1, 3, 720, 1024), (1, 4, 4, 2)], ULTRA, opset=16).device is Device.BPU
    assert "padding reflection" in one("GridSample", shapes, X5, opset=16, padding_mode="reflection").reason
    assert one("GridSample", shapes, X3, opset=16).device is Device.UNSUPPORTED


def test_softmax_is_on_the_cpu_unless_an_option_is_set_which_run_does() -> None:
    as_exported = one("Softmax", [IMAGE], X5, form=Form.ORIGINAL, axis=3)
    assert as_exported.device is Device.CPU and "set_Softmax_input_int8" in as_exported.reason
    assert as_exported.hint is not None and as_exported.hint.fix == "ask the compiler"
    asked = one("Softmax", [IMAGE], X5, axis=3)
    assert asked.device is Device.BPU and "`run` requests it" in asked.reason and asked.hint is None
    other = one("Softmax", [IMAGE], X5, axis=1)
    assert "axis 1, must be 3" in other.reason and (other.hint is None or other.hint.fix != "ask the compiler")
    assert one("Softmax", [IMAGE], X5, axis=1, opset=13).device is Device.BPU  # torch's meaning since opset 13
    x3 = one("Softmax", [IMAGE], X3, axis=1)
    assert "only supported as the network's output" in x3.reason
    assert "run_on_bpu" in one("Softmax", [IMAGE], X3, axis=1, after="").reason


def test_limits_that_only_the_tool_can_decide_are_unchecked() -> None:
    fused = one("Conv", [IMAGE], X3, weights=K3, strides=[4, 4], after="Add")
    assert fused.device is Device.BPU and "must be 1 or 2 if the tool fuses them" in fused.not_checked[0]
    assert not one("Conv", [IMAGE], X3, weights=K3, strides=[4, 4]).not_checked
    assert any("limits of its parts" in t for t in one("HardSwish", [IMAGE], X5, opset=14).not_checked)
    same = one("ConvTranspose", [IMAGE], X3, weights=(zeros(8, 8, 4, 4),), strides=[2, 2], auto_pad="SAME_UPPER")
    assert any("left to the runtime" in t for t in same.not_checked)


def test_an_unknown_shape_is_unchecked() -> None:
    import onnx
    from onnx import helper

    from bpudeploy.conformance.placement import placement

    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "n", 4, 4])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = helper.make_node("Sqrt", ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", [value], [out]), opset_imports=[helper.make_opsetid("", 11)]
    )
    (found,) = placement(model, X3).nodes
    assert found.device is Device.BPU and any("unknown shape" in t for t in found.not_checked)


@pytest.mark.parametrize(
    ("op", "march", "device"),
    [
        ("Erf", X3, Device.BPU),
        ("Erf", X5, Device.BPU),
        ("Erf", ULTRA, Device.BPU),
        ("Erf", S100, Device.UNKNOWN),
        ("Exp", S100, Device.BPU),
        ("Sin", X5, Device.BPU),
        ("Det", X5, Device.UNKNOWN),
        ("Neg", X5, Device.CPU),
        ("Sqrt", X5, Device.BPU),
    ],
)
def test_placement_by_operator(op: str, march: March, device: Device) -> None:
    found = one(op, [(1, 4, 4, 4)], march)
    assert found.device is device and found.source


def test_composites_run_where_their_parts_do() -> None:
    norm: dict[str, Any] = {"weights": (zeros(16), zeros(16)), "opset": 17}
    assert "on the CPU: Sub" in one("LayerNormalization", [IMAGE], X3, **norm).reason
    assert one("LayerNormalization", [IMAGE], X5, **norm).device is Device.BPU
    assert "on the CPU: Erf" in one("Gelu", [IMAGE], ULTRA, opset=20).reason
    assert one("Einsum", [(2, 3), (3, 4)], X5, opset=12, equation="ij,jk->ik").device is Device.UNSUPPORTED


CHECKED_WITH = {
    "max_channels_plain": "max_channels_per_group",
    "torch_axis": "onnx_axis",
    "axes_hw_together": "n_axes",
    "hw_le_7": "max_channels_hw1",  # only a Gemm has it, whose H and W are 1
}
"""Limits that the check of another limit covers."""
NOT_LIMITS = frozenset({"enable", "lowered_to", "parts", "note"})
"""Fields that describe the operator and restrict nothing."""


def test_every_limit_has_a_check() -> None:
    assert set(Limits.model_fields) == set(CHECKS) | set(CHECKED_WITH) | NOT_LIMITS
    assert set(CHECKED_WITH.values()) <= set(CHECKS)
