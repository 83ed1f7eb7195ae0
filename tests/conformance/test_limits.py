"""One test a kind of limit: a node just inside is on the BPU, one just outside is on the CPU and says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bpudeploy.conformance.limits.every import CHECKS, NO_LIMITS, WITH_ANOTHER
from bpudeploy.conformance.report import Device, NodePlacement
from bpudeploy.conformance.table import Limits
from bpudeploy.spec.target import March
from tests.conformance.graphs import S100, ULTRA, X3, X5, ints, one, zeros


@dataclass(frozen=True)
class Case:
    """A node that keeps its limits, and what must be changed for it to break one."""

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
    Case("Conv", X5, [IMAGE], {"weights": (zeros(8, 8, 33, 3),)}, "kernel 33x3, the limit is 31", K3),
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
        ULTRA,
        [(1, 8192, 4, 4)],
        {"weights": (zeros(1, 8192, 3, 3),)},
        "73728, the limit is 65535",
        (zeros(1, 8192, 1, 1),),
    ),
    Case(
        "Conv",
        X5,
        [(1, 8, 2, 2)],
        {"weights": (zeros(8200, 8, 1, 1),)},
        "kernel N and C 8200x8, the limit is 8192",
        (zeros(8, 8, 1, 1),),
    ),
    Case(
        "Conv",
        X3,
        [(1, 8, 2, 2)],
        {"weights": (zeros(4100, 8, 1, 1),)},
        "output channels a group 4100, the limit is 4096",
        (zeros(4096, 8, 1, 1),),
    ),
    Case("Conv", X5, [(1, 8, 600, 600)], {"strides": [300, 300]}, "stride 300x300, the limit is 256", K3),
    Case("Conv", X5, [IMAGE], {"dilations": [17, 1], "pads": [17, 0, 17, 0]}, "dilation 17x1, the limit is 16", K3),
    Case(
        "Conv",
        X5,
        [IMAGE],
        {"dilations": [2, 2], "strides": [2, 2]},
        "with stride 2x2, it must be 1",
        K3,
        {"dilations": [2, 2]},
    ),
    Case("Conv", X5, [IMAGE], {"dilations": [3, 3]}, "of a map 16x16, it must divide it", K3),
    Case("Conv", X3, [IMAGE], {"dilations": [3, 3]}, "it must be a power of two", K3),
    Case(
        "Conv",
        X3,
        [IMAGE],
        {"dilations": [2, 2]},
        "it must divide the stride 1x1",
        K3,
        {"dilations": [2, 2], "strides": [2, 2]},
    ),
    Case("Conv", X3, [IMAGE], {"dilations": [2, 1], "strides": [2, 2]}, "that of H must not be above", K3),
    Case("Conv", X5, [IMAGE], {"pads": [257, 0, 0, 0]}, "pads 257x0x0x0, the limit is 256", K3),
    Case("ConvTranspose", X3, [IMAGE], {"strides": [3, 3]}, "stride 3x3, it must be 2 or 4", K3, {"strides": [2, 2]}),
    Case(
        "ConvTranspose",
        X3,
        [IMAGE],
        {"strides": [4, 2]},
        "stride 4x2, that of H must not be above",
        K3,
        {"strides": [2, 4]},
    ),
    Case(
        "ConvTranspose",
        X3,
        [IMAGE],
        {"strides": [2, 2], "pads": [2, 2, 2, 2]},
        "the limit is 1x1x1x1",
        K3,
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    Case(
        "ConvTranspose",
        X5,
        [IMAGE],
        {"weights": (zeros(8, 8, 1, 1),), "strides": [2, 2]},
        "kernel 1x1, which it must not be",
        K3,
        {"strides": [2, 2]},
    ),
    Case("ConvTranspose", X5, [IMAGE], {}, "stride 1x1, which it must not be", K3, {"strides": [2, 2]}),
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
        "MaxPool",
        X5,
        [IMAGE],
        {"kernel_shape": [3, 3], "dilations": [2, 2]},
        "dilation 2x2, it must be 1",
        (),
        {"kernel_shape": [3, 3]},
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
    Case("GlobalAveragePool", X3, [(1, 8, 90, 90)], {"shapes": [(1, 8, 91, 91)]}, "H*W is 8281, the limit is 8192"),
    Case("GlobalMaxPool", X5, [(1, 8, 256, 256)], {"shapes": [(1, 8, 257, 256)]}, "H 257, the limit is 256"),
    Case("GlobalMaxPool", X5, [(1, 8, 256, 256)], {"shapes": [(1, 8, 256, 257)]}, "W 257, the limit is 256"),
    Case("Sqrt", X3, [(1, 32, 16, 16)], {"shapes": [(1, 33, 16, 16)]}, "C*H*W is 8448, the limit is 8192"),
    Case(
        "Sigmoid",
        X3,
        [(1, 32, 16, 16)],
        {"shapes": [(1, 8, 100, 9)]},
        "C*H*W after padding is 12800, the limit is 8192",
    ),
    Case("Tanh", X3, [(1, 8, 16)], {}, "3-D tensor 1x8x16, it must be 4-D", (), {"shapes": [IMAGE]}),
    Case("Add", ULTRA, [(1, 8, 16)] * 2, {"shapes": [(1, 1, 1, 1, 8, 16)] * 2}, "it must have 2 to 5 dimensions"),
    Case("Add", ULTRA, [(2, 8, 16)] * 2, {"shapes": [(2, 8, 16), (1, 8, 16)]}, "dimension 0 is broadcast"),
    Case("Add", X3, [IMAGE, (1, 8, 1, 1)], {"shapes": [IMAGE, (1, 1, 16, 16)]}, "it must be NCHW+NCHW or NCHW+NC11"),
    Case("Add", X3, [IMAGE] * 2, {"shapes": [IMAGE], "weights": (zeros(*IMAGE),)}, "both must be feature maps"),
    Case("Mul", X3, [IMAGE, (1, 1, 1, 1)], {"shapes": [IMAGE, (1, 1, 16, 16)]}, "1CHW*1CHW or 1CHW*1C11 or 1CHW*1111"),
    Case("Mul", X3, [IMAGE], {"weights": (zeros(1, 8, 1, 1),)}, "its constant holds a 0", (zeros(1, 8, 1, 1) + 1,)),
    Case("Mul", X3, [(1, 2048, 2, 2)] * 2, {"shapes": [(1, 2049, 2, 2)] * 2}, "channels 2049, the limit is 2048"),
    Case("Div", X3, [IMAGE] * 2, {"shapes": [IMAGE], "weights": (zeros(1, 1, 1, 1),)}, "both must be feature maps"),
    Case(
        "Max", ULTRA, [IMAGE, (1, 1, 16, 16)], {"shapes": [(1, 8, 1, 16), (1, 1, 16, 16)]}, "both sides are broadcast"
    ),
    Case("ReduceMean", X3, [IMAGE], {"axes": [1]}, "axes 1, they must be 2 and 3", (), {"axes": [2, 3]}),
    Case(
        "ReduceMean", X5, [IMAGE], {"axes": [1, 2]}, "it reduces 2 axes at once, the limit is 1", (), {"axes": [-1, -2]}
    ),
    Case("ReduceMean", X5, [IMAGE], {"axes": [1], "keepdims": 0}, "keepdims is not 1", (), {"axes": [1]}),
    Case(
        "ReduceMax",
        X5,
        [(1, 8, 1, 8192)],
        {"shapes": [(1, 8, 1, 8193)], "axes": [3]},
        "size of the reduced axis 8193, the limit is 8192",
        (),
        {"axes": [3]},
    ),
    Case(
        "MatMul", X3, [(1, 8, 9, 4), (1, 1, 4, 5)], {"shapes": [(1, 8, 9, 4), (1, 8, 4, 5)]}, "only 1xBxMxK by 1x1xKxN"
    ),
    Case("MatMul", X3, [(9, 4)], {"shapes": [(1, 1, 1, 9, 4)]}, "it must have 4 dimensions or less", (zeros(4, 5),)),
    Case("MatMul", X5, [(1, 8, 9, 4), (1, 8, 4, 5)], {"shapes": [(1, 9, 4), (4, 5)]}, "both must have the same rank"),
    Case(
        "MatMul",
        X5,
        [(1, 1, 8192, 4), (1, 1, 4, 5)],
        {"shapes": [(1, 1, 8193, 4), (1, 1, 4, 5)]},
        "M, K, N are 8193, 4, 5, the limit is 8192",
    ),
    Case(
        "MatMul",
        X5,
        [(1, 4096, 2, 4), (1, 1, 4, 5)],
        {"shapes": [(1, 4097, 2, 4), (1, 1, 4, 5)]},
        "dimension 4097 before the matrices",
    ),
    Case(
        "MatMul", X5, [(2, 8, 9, 4), (1, 1, 4, 5)], {"shapes": [(2, 1, 9, 4), (1, 8, 4, 5)]}, "both sides are broadcast"
    ),
    Case("Concat", X5, [IMAGE] * 2, {"axis": 0}, "axis 0, which it must not be", (), {"axis": 1}),
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
        "axis 0, it must be 1 or 2 or 3",
        (),
        {"axis": 1, "outputs": 2},
    ),
    Case(
        "Split",
        X5,
        [IMAGE],
        {"axis": 1, "split": [3, 5], "outputs": 2},
        "parts of 3, 5, they must be equal",
        (),
        {"axis": 1, "outputs": 2},
    ),
    Case("ArgMax", X5, [(1, 8191, 2, 2)], {"axis": 2}, "axis 2, it must be 1", (), {"axis": 1}),
    Case(
        "ArgMax",
        X3,
        [(1, 64, 2, 2)],
        {"shapes": [(1, 65, 2, 2)], "axis": 1},
        "channels 65, the limit is 64",
        (),
        {"axis": 1},
    ),
    Case("Gather", X5, [(4, 3, 2, 2)], {"shapes": [(4, 3, 2, 2, 2)]}, "rank 5, the limit is 4", (ints(1, 2),)),
    Case(
        "Pad",
        X3,
        [IMAGE],
        {"weights": (ints(0, 1, 0, 0, 0, 0, 0, 0),)},
        "it pads axes 1, only 2 and 3",
        (ints(0, 0, 1, 1, 0, 0, 1, 1),),
    ),
    Case("Pad", X5, [IMAGE], {"mode": "reflect"}, "mode reflect, it must be constant", (ints(0, 0, 1, 1, 0, 0, 1, 1),)),
    Case(
        "Expand",
        X5,
        [(1, 1, 16, 16)],
        {"weights": (ints(2, 8, 16, 16),)},
        "dimensions that change 2, the limit is 1",
        (ints(1, 8, 16, 16),),
    ),
    Case("DepthToSpace", X5, [(1, 16, 4, 4)], {"blocksize": 4}, "blocksize 4, it must be 2", (), {"blocksize": 2}),
    Case("Pow", X5, [IMAGE], {"weights": (zeros(1, 8, 1, 1),)}, "an exponent of shape 1x8x1x1", (zeros(),)),
    Case(
        "Pow",
        X5,
        [IMAGE, (1, 1, 1, 1)],
        {},
        "the exponent is a feature map",
        (),
        {"shapes": [IMAGE], "weights": (zeros(),)},
    ),
    Case(
        "PRelu", X5, [IMAGE], {"shapes": [(1, 8, 16)], "weights": (zeros(8, 1),)}, "it must be 4-D", (zeros(8, 1, 1),)
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
        "Gemm",
        X5,
        [(1, 8192)],
        {"shapes": [(1, 8200)], "weights": (zeros(8200, 2),)},
        "kernel N and C 2x8200, the limit is 8192",
        (zeros(8192, 2),),
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
        "Relu", X5, [(1, 2, 16384, 32768)], {"shapes": [(1, 3, 16384, 32768)]}, "bytes at int8, the limit is 1073741824"
    ),
    Case(
        "Slice",
        ULTRA,
        [IMAGE],
        {"shapes": [(1, 8, 16)]},
        "3-D tensor 1x8x16, it must be 4-D",
        (ints(0), ints(4), ints(2)),
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
    assert "factor 3 and 3, it must be a power of two" in scaled(1, 1, 3, 3).reason
    assert "the factor of H must not be above" in scaled(1, 1, 4, 2).reason
    assert "only H and W may change" in scaled(1, 2, 2, 2).reason
    assert "mode cubic" in scaled(1, 1, 2, 2, mode="cubic").reason
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


def test_softmax_is_on_the_cpu_unless_asked_for_and_only_where_it_could_be() -> None:
    asked = one("Softmax", [IMAGE], X5, axis=3)
    assert asked.device is Device.CPU and "set_Softmax_input_int8" in asked.reason
    assert asked.hint is not None and asked.hint.fix == "ask the compiler"
    other = one("Softmax", [IMAGE], X5, axis=1)
    assert "axis 1, it must be 3" in other.reason and (other.hint is None or other.hint.fix != "ask the compiler")
    assert "CPU unless" in one("Softmax", [IMAGE], X5, axis=1, opset=13).reason  # torch's meaning since opset 13
    x3 = one("Softmax", [IMAGE], X3, axis=1)
    assert "it is not the network's output" in x3.reason
    assert "run_on_bpu" in one("Softmax", [IMAGE], X3, axis=1, after="").reason


def test_a_last_convolution_may_have_more_channels() -> None:
    def conv(after: str | None) -> NodePlacement:
        return one("Conv", [(1, 8, 2, 2)], X5, weights=(zeros(9000, 8, 1, 1),), after=after)

    assert conv(None).device is Device.CPU
    assert conv("").device is Device.BPU and "65536 to a last convolution" in conv("").not_checked[0]


def test_what_only_the_tool_knows_is_not_checked() -> None:
    fused = one("Conv", [IMAGE], X3, weights=K3, strides=[4, 4], after="Add")
    assert fused.device is Device.BPU and "if the tool fuses them" in fused.not_checked[0]
    assert not one("Conv", [IMAGE], X3, weights=K3, strides=[4, 4]).not_checked
    dilated = one("Conv", [IMAGE], X5, weights=K3, dilations=[2, 2])
    assert dilated.not_checked == ("with a dilation the output must be int8: that is chosen later",)
    assert any("depends on the image" in t for t in one("Mul", [IMAGE, IMAGE], X3).not_checked)
    assert any("mergeable" in t for t in one("Add", [(1, 2, 3, 4, 5), (1, 2, 1, 4, 5)], X5).not_checked)
    assert any("H*W/8" in t for t in one("Gemm", [(1, 8)], X3, weights=(zeros(8, 2),)).not_checked)
    assert any("limits of its parts" in t for t in one("HardSwish", [IMAGE], X5, opset=14).not_checked)
    assert any("make a Conv" in t for t in one("MatMul", [(1, 1, 9, 4)], X5, weights=(zeros(1, 1, 4, 5),)).not_checked)
    same = one("Conv", [IMAGE], X5, weights=K3, auto_pad="SAME_UPPER")
    assert any("left to the runtime" in t for t in same.not_checked)


def test_a_padded_sigmoid_may_go_either_way() -> None:
    found = one("Sigmoid", [(1, 4, 20, 20)], X3)  # 4*20*24 = 1920, with C at 32 15360
    assert found.device is Device.BPU and "with C padded to 32, 15360" in found.not_checked[0]


def test_a_shape_that_is_not_known_is_not_checked() -> None:
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
    assert found.device is Device.BPU and any("a shape is not known" in t for t in found.not_checked)


@pytest.mark.parametrize(
    ("op", "march", "device"),
    [
        ("Erf", X3, Device.CPU),
        ("Erf", X5, Device.BPU),
        ("Erf", ULTRA, Device.CPU),
        ("Erf", S100, Device.UNKNOWN),
        ("Exp", S100, Device.BPU),
        ("Sin", X5, Device.UNKNOWN),
        ("Neg", X5, Device.CPU),
        ("Sqrt", X5, Device.BPU),
    ],
)
def test_an_operator_alone_decides(op: str, march: March, device: Device) -> None:
    found = one(op, [(1, 4, 4, 4)], march)
    assert found.device is device and found.source


def test_composites_are_what_their_parts_are() -> None:
    norm: dict[str, Any] = {"weights": (zeros(16), zeros(16)), "opset": 17}
    assert "on the CPU: Sub" in one("LayerNormalization", [IMAGE], X3, **norm).reason
    assert one("LayerNormalization", [IMAGE], X5, **norm).device is Device.BPU
    assert "on the CPU: Erf" in one("Gelu", [IMAGE], ULTRA, opset=20).reason
    assert one("Einsum", [(2, 3), (3, 4)], X5, opset=12, equation="ij,jk->ik").device is Device.UNSUPPORTED


def test_every_limit_is_checked_or_read_by_a_check() -> None:
    assert set(Limits.model_fields) == set(CHECKS) | set(WITH_ANOTHER) | NO_LIMITS
    assert set(WITH_ANOTHER.values()) <= set(CHECKS)
