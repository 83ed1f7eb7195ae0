"""The single-operator networks: each operator with the shapes, broadcasts, attributes and sizes found in practice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.operators.build import OP, NetworkBuilder, NetworkSet, Shape, f32, format_shape, i64, positive, small

IMAGE, TOKENS, ROWS, BATCH = (1, 32, 28, 28), (1, 192, 1, 197), (1, 197, 192), (4, 16, 7, 7)
SHAPES: tuple[Shape, ...] = (IMAGE, TOKENS, ROWS, (1, 192), (1, 2, 3, 14, 14))
_LUT = """
Relu LeakyRelu Sigmoid Tanh Exp Log Sqrt Reciprocal Abs Neg Floor Ceil Round Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh
Acosh Atanh Sign Erf Softplus Softsign Elu Selu HardSigmoid Identity Dropout ThresholdedRelu
"""
REDUCTIONS = ("Mean", "Sum", "Max", "Min", "L2", "L1", "Prod", "SumSquare", "LogSumExp")


def networks(around: str | None) -> dict[str, onnx.ModelProto]:
    """Return every network by its name.

    Args:
        around: the neighbours of the operator, convolutions if None. A constant is folded into an adjacent convolution,
            so operators with constants, and those that change shapes, are also tested between other operators.
    """
    nets = NetworkSet(around)
    families = (elementwise, tables, convolutions, poolings, reductions, products, shapes, resizes, sizes, others)
    for family in families if around is None else (elementwise, products, shapes):
        family(nets)
    return nets.made


def elementwise(nets: NetworkSet) -> None:
    """Add binary operators: feature maps, constants, every broadcast."""
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"):
        for s in SHAPES:
            nets.binary("same", op, s, s)
            for left in (False, True):
                side = "left" if left else "right"
                nets.unary(f"number {side}", op, s, [f32(0.7)], left=left)
                nets.unary(f"whole {side}", op, s, [positive(*s)], left=left)
            nets.unary("last axis", op, s, [positive(s[-1])])
        for s in (IMAGE, TOKENS):
            c, h, w = s[1:]
            for dims in ((1, c, 1, 1), (c, 1, 1), (1, 1, h, w)):
                nets.unary(f"constant {format_shape(dims)}", op, s, [positive(*dims)])
            nets.unary("channel left", op, s, [positive(1, c, 1, 1)], left=True)
            for dims in ((1, c, 1, 1), (1, 1, h, w), (1, 1, 1, 1), (1, c, 1, w)):
                nets.binary("map", op, s, dims)
            nets.binary("map", op, (1, c, 1, 1), s)
            nets.binary("both", op, (1, c, h, 1), (1, c, 1, w))
        nets.binary("map", op, ROWS, (1, 197, 1))
        nets.binary("map", op, ROWS, (1, 192))
        nets.binary("batch", op, BATCH, (1, 16, 7, 7)) if op != "Pow" else None
        nets.binary("batch", op, (64, 3, 49, 49), (1, 3, 49, 49)) if op != "Pow" else None
        nets.unary("batch", op, (64, 3, 49, 49), [positive(1, 3, 49, 49)])
        nets.unary("batch", op, (4, 32, 14, 14), [f32(0.7)])
        nets.binary("map", op, (1, 2, 3, 14, 14), (1, 2, 1, 14, 14)) if op != "Pow" else None
    for s in (IMAGE, ROWS):
        for op in ("Equal", "Less", "Greater"):
            nets.binary("same", op, s, s)
            nets.unary("number", op, s, [f32(0.2)])
        for op in ("Sum", "Mean", "Max", "Min"):
            for k in (2, 3, 4):
                _several(nets, op, [s] * k)
        chosen = np.arange(s[-1]) % 2 == 0
        _several(nets, "Where", [s], [chosen], [f32(-1.0)])
        _several(nets, "Where", [s, s], [chosen])


def _several(
    nets: NetworkSet, op: str, maps: Sequence[Shape], before: Sequence[Any] = (), after: Sequence[Any] = ()
) -> None:
    """Add an operator of feature maps with constants before and after them."""

    def build(net: NetworkBuilder) -> Any:
        return net.node(op, [*map(net.const, before), *map(net.feature, maps), *map(net.const, after)], OP)

    nets.add(f"{op} {len(before)} {' '.join(map(format_shape, maps))} {len(after)}", build)


def tables(nets: NetworkSet) -> None:
    """Add unary operators: those that a look-up table can compute, and norms."""
    for op in _LUT.split():
        for s in (*SHAPES, (1, 3, 197, 64), (197, 192)):
            nets.unary("", op, s)
    for op in ("Sigmoid", "Exp", "Sqrt", "Reciprocal", "Tanh", "Erf", "Abs", "Log", "Softplus"):
        for s in ((1, 1, 1, 1), (1, 192, 1, 1), (1, 1, 1, 197), (1, 1, 28, 28), (1, 3000, 1, 1), (1, 64, 224, 224)):
            nets.unary("", op, s)
    for s in (IMAGE, TOKENS, ROWS):
        for power in (2.0, 3.0, 0.5, -1.0, -0.5, 1.5):
            nets.unary(f"{power}", "Pow", s, [f32(power)])
        nets.unary("0 6", "Clip", s, [f32(0), f32(6)])
        nets.unary("-1 1", "Clip", s, [f32(-1), f32(1)])
        nets.unary("0", "Clip", s, [f32(0)])
        nets.unary("channel", "PRelu", s, [positive(s[1], *(1,) * (len(s) - 2))])
        nets.unary("number", "PRelu", s, [positive(1)])
        nets.unary("", "BatchNormalization", s, [positive(s[1]) for _ in range(4)])
        nets.unary("", "InstanceNormalization", s, [positive(s[1]) for _ in range(2)])
        nets.unary("", "LRN", s, size=5)
        nets.unary("", "MeanVarianceNormalization", s)
        for axis in (1, -1):
            nets.unary(f"{axis}", "LpNormalization", s, axis=axis)


def _conv(nets: NetworkSet, s: Shape, outer: int, kernel: Shape, group: int = 1, **attributes: Any) -> None:
    weight = small(outer, s[1] // group, *kernel)
    more = " ".join(f"{k} {v}" for k, v in attributes.items())
    nets.unary(
        f"{outer} {format_shape(kernel)} {group} {more}",
        "Conv",
        s,
        [weight, small(outer)],
        kernel_shape=list(kernel),
        group=group,
        **attributes,
    )


def convolutions(nets: NetworkSet) -> None:
    """Add convolutions: kernels, strides, dilations, groups, channels; transposed ones."""
    for k in (1, 2, 3, 4, 5, 7, 8, 9, 11, 14, 16, 21, 31, 32, 48, 64, 100):
        _conv(nets, (1, 8, 160, 160), 8, (k, k))
        _conv(nets, (1, 8, 8, 160), 8, (1, k))
        _conv(nets, (1, 3, 224, 224), 48, (k, k), strides=[k, k])
        if k < 33:
            _conv(nets, (1, 32, 56, 56), 32, (k, k), 32)
    for kernel in ((3, 1), (7, 1), (5, 3)):
        _conv(nets, (1, 16, 56, 56), 16, kernel)
    for strides in ([2, 2], [1, 2], [2, 1], [3, 3], [4, 4], [8, 8], [2, 4], [17, 17], [32, 32]):
        _conv(nets, (1, 16, 64, 64), 16, (3, 3), strides=strides)
    for dilation in (2, 3, 4, 5, 6, 8, 12, 16, 24, 32):
        for stride in (1, 2):
            _conv(
                nets, (1, 16, 64, 64), 16, (3, 3), dilations=[dilation] * 2, pads=[dilation] * 4, strides=[stride] * 2
            )
    for dilations in ([1, 2], [2, 1], [2, 4], [3, 2]):
        _conv(nets, (1, 16, 64, 64), 16, (3, 3), dilations=dilations)
    for c in (1, 2, 3, 512, 1024, 2048, 2049, 4096, 4097, 8192):
        _conv(nets, (1, c, 7, 7), 16, (1, 1))
        _conv(nets, (1, 16, 7, 7), c, (1, 1))
    for c in (4096, 16384, 20000, 65536, 70000):
        _conv(nets, (1, c, 1, 1), 16, (1, 1))
        _conv(nets, (1, 16, 1, 1), c, (1, 1))
    for group, c in ((2, 32), (4, 32), (16, 32), (8, 24), (3, 48), (32, 1024), (7, 49)):
        _conv(nets, (1, c, 14, 14), c, (3, 3), group, pads=[1] * 4)
    _conv(nets, IMAGE, 64, (3, 3), 32, pads=[1] * 4)
    _conv(nets, IMAGE, 64, (3, 3), pads=[0, 0, 1, 1])
    _conv(nets, IMAGE, 64, (3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    _conv(nets, BATCH, 64, (3, 3), pads=[1] * 4)
    _conv(nets, (1, 32, 197), 64, (3,))
    _conv(nets, TOKENS, 768, (1, 1))
    for k in (1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16):
        for stride in (1, 2, 3, 4, 8):
            for pad in {0, 1, (k - 1) // 2}:
                if pad < k and stride <= max(k, 2):
                    _transposed(nets, k, stride, pad, 1)
    for group in (4, 16):
        _transposed(nets, 4, 2, 1, group)


def _transposed(nets: NetworkSet, k: int, stride: int, pad: int, group: int) -> None:
    nets.unary(
        f"{k} stride {stride} pad {pad} group {group}",
        "ConvTranspose",
        (1, 16, 14, 14),
        [small(16, 16 // group, k, k)],
        kernel_shape=[k, k],
        strides=[stride] * 2,
        pads=[pad] * 4,
        group=group,
    )


def poolings(nets: NetworkSet) -> None:
    """Add poolings: small and large windows, strides, pads, global ones."""
    for op in ("MaxPool", "AveragePool"):
        for k in (1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 14, 15, 16, 21, 28, 32, 56, 64, 65, 100, 112, 200):
            for stride in {1, 2, 3, k}:
                s = (1, 8, 224, 224) if k > 28 else IMAGE
                nets.unary(f"{k} stride {stride}", op, s, kernel_shape=[k, k], strides=[stride] * 2)
        for pads in ([1] * 4, [0, 0, 1, 1]):
            nets.unary(f"pads {pads}", op, IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
        nets.unary("ceil", op, (1, 32, 27, 27), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        nets.unary("tokens", op, TOKENS, kernel_shape=[1, 197])
        nets.unary("3-D", op, (1, 32, 196), kernel_shape=[2], strides=[2])
        nets.unary("5-D", op, (1, 2, 4, 14, 14), kernel_shape=[2] * 3, strides=[2] * 3)
    nets.unary("dilated", "MaxPool", IMAGE, kernel_shape=[3, 3], dilations=[2, 2])
    whole: tuple[Shape, ...] = (IMAGE, (1, 512, 7, 7), (1, 8, 112, 112), (1, 8, 224, 224), TOKENS)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        for shape in (*whole, (1, 192, 197), (1, 4, 4, 14, 14)):
            nets.unary("", op, shape)
    nets.unary("", "LpPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2])


def reductions(nets: NetworkSet) -> None:
    """Add reductions over every axis, softmax and argmax."""
    wanted: tuple[tuple[Shape, tuple[list[int], ...]], ...] = (
        (IMAGE, ([1], [2], [3], [2, 3], [1, 2, 3])),
        (TOKENS, ([1], [3], [2, 3])),
        (ROWS, ([1], [2], [1, 2])),
    )
    for op in REDUCTIONS:
        for s, every in wanted:
            for axes in every:
                for keep in (1, 0) if len(axes) < 3 and op in ("Mean", "Sum", "Max") else (1,):
                    nets.unary(f"{axes} keepdims {keep}", f"Reduce{op}", s, axes=axes, keepdims=keep)
    softmaxes: tuple[tuple[Shape, tuple[int, ...]], ...] = (
        (IMAGE, (1, 2, 3)),
        ((1, 3, 197, 197), (1, 2, 3)),
        ((3, 197, 197), (1, 2)),
        ((1, 1000), (1,)),
        ((1, 1000, 1, 1), (1,)),
        ((3, 1, 197, 197), (3,)),
    )
    for s, over in softmaxes:
        for axis in over:
            for op in ("Softmax", "LogSoftmax", "Hardmax"):
                nets.unary(f"axis {axis}", op, s, axis=axis)
    for axis in (1, 2, 3):
        for keep in (1, 0):
            for op in ("ArgMax", "ArgMin"):
                nets.unary(f"axis {axis} keepdims {keep}", op, (1, 21, 28, 28), axis=axis, keepdims=keep)
    for n in (64, 65, 1000, 2049):
        nets.unary("axis 1", "ArgMax", (1, n, 4, 4), axis=1)
    for n in (4097, 8192, 8193):
        for op in ("Max", "Sum", "Mean"):
            nets.unary("long", f"Reduce{op}", (1, n, 4, 4), axes=[1])
    nets.add("TopK", lambda net: net.node("TopK", [net.feature((1, 1, 1, 1000)), net.const(i64(5))], OP, 2, axis=3)[0])
    nets.unary("", "CumSum", IMAGE, [np.int64(1)])


def products(nets: NetworkSet) -> None:
    """Add matrix products of feature maps, and with constants on either side, of every rank."""
    pairs: tuple[tuple[Shape, Shape], ...] = (
        ((1, 3, 197, 64), (1, 3, 64, 197)),
        ((3, 197, 64), (3, 64, 197)),
        ((1, 197, 64), (1, 64, 197)),
        ((197, 64), (64, 197)),
        ((1, 1, 197, 64), (1, 1, 64, 197)),
        ((3, 1, 197, 64), (3, 1, 64, 197)),
        ((64, 3, 49, 32), (64, 3, 32, 49)),
        ((1, 3, 197, 64), (1, 1, 64, 197)),
        ((3, 1, 197, 64), (1, 2, 64, 197)),
        ((1, 3, 197, 64), (64, 197)),
        ((1, 6, 1, 64), (1, 6, 64, 197)),
        ((1, 2, 3, 14, 14), (1, 2, 3, 14, 14)),
        ((1, 3, 64, 64), (3, 64, 64)),
        ((1, 1, 64, 8193), (1, 1, 8193, 64)),
        ((1, 1, 8193, 64), (1, 1, 64, 64)),
    )
    for a, b in pairs:
        nets.binary("", "MatMul", a, b)
    for s in (ROWS, (197, 192), (1, 1, 197, 192), (1, 14, 14, 192), (1, 192), (1, 2, 7, 7, 192), (3, 197, 64)):
        k = s[-1]
        for dims in ((k, 192), (1, k, 96), (k,), (k, 1), (k, 2048), (k, 3072)):
            nets.unary(f"by {format_shape(dims)}", "MatMul", s, [small(*dims)])
        nets.unary("left", "MatMul", s, [small(96, s[-2])], left=True)
        if len(s) > 2:
            nets.unary("whole", "MatMul", s, [small(*s[:-2], k, 64)])
    for s, n in (((1, 192), 1000), ((197, 192), 192), ((1, 8192), 100), ((1, 20000), 10), ((1, 192), 20000)):
        nets.unary(f"{n}", "Gemm", s, [small(n, s[1]), small(n)], transB=1)
    nets.unary("not turned", "Gemm", (1, 192), [small(192, 100), small(100)])
    nets.unary("transA", "Gemm", (192, 7), [small(192, 100), small(100)], transA=1)
    nets.binary("", "Gemm", (197, 64), (64, 197))
    nets.add(
        "Conv with a computed weight",
        lambda net: net.node(
            "Conv", [net.feature((1, 16, 28, 28)), net.feature((8, 16, 3, 3))], OP, kernel_shape=[3, 3]
        ),
    )


def shapes(nets: NetworkSet) -> None:
    """Add operators that change no value: reshapes, transposes, splits, joins, pads, copies."""
    changed: tuple[tuple[Shape, Shape], ...] = (
        ((1, 192, 14, 14), (1, 192, 196)),
        ((1, 192, 14, 14), (1, 192, 1, 196)),
        ((1, 192, 1, 196), (1, 192, 14, 14)),
        (TOKENS, (3, 64, 197, 1)),
        (TOKENS, (1, 3, 64, 197)),
        ((1, 192, 197), (1, 3, 64, 197)),
        (ROWS, (1, 197, 3, 64)),
        (IMAGE, (1, 25088)),
        (IMAGE, (1, 25088, 1, 1)),
        (IMAGE, (784, 32)),
        (IMAGE, (2, 16, 28, 28)),
        (IMAGE, (1, 28, 28, 32)),
        ((1, 64, 28, 28), (1, 2, 32, 28, 28)),
    )
    for s, t in changed:
        nets.unary(f"to {format_shape(t)}", "Reshape", s, [i64(*t)])
    for s in (IMAGE, (1, 3, 64, 197), ROWS):
        for order in permutations(range(len(s))):
            nets.unary(f"{order}", "Transpose", s, perm=list(order))
    nets.unary("", "Transpose", (197, 192), perm=[1, 0])
    for order in ((0, 2, 1, 3, 4), (0, 1, 3, 4, 2), (2, 0, 3, 1, 4), (0, 2, 3, 4, 1)):
        nets.unary(f"{order}", "Transpose", (1, 2, 3, 14, 14), perm=list(order))
    nets.unary("6-D", "Transpose", (1, 8, 7, 8, 7, 16), perm=[0, 1, 3, 2, 4, 5])
    for axis in (0, 1, 2, 3):
        nets.unary(f"axis {axis}", "Flatten", IMAGE, axis=axis)
    nets.unary("", "Squeeze", TOKENS, axes=[2])
    nets.unary("", "Unsqueeze", (1, 192, 197), axes=[2])
    cuts: tuple[tuple[Shape, list[int], list[int], list[int], list[int]], ...] = (
        (TOKENS, [0], [1], [3], [1]),
        (TOKENS, [1], [197], [3], [1]),
        (ROWS, [0], [1], [1], [1]),
        (IMAGE, [0], [16], [1], [1]),
        (IMAGE, [0, 0], [28, 28], [2, 3], [2, 2]),
        (IMAGE, [1], [28], [2], [2]),
        (IMAGE, [27], [-29], [2], [-1]),
        (IMAGE, [0], [32], [1], [2]),
        ((1, 2, 3, 14, 14), [0], [1], [1], [1]),
        (BATCH, [0], [1], [0], [1]),
    )
    for s, *parts in cuts:
        nets.unary(f"{parts}", "Slice", s, [i64(*p) for p in parts])
    for s, axis, sizes_ in (
        (IMAGE, 1, [8, 24]),
        (IMAGE, 2, [14, 14]),
        (IMAGE, 3, [7, 21]),
        ((1, 576, 1, 197), 1, [192] * 3),
        ((1, 197, 576), 2, [192] * 3),
        ((3, 197, 64), 0, [1] * 3),
        ((1, 3, 3, 197, 64), 1, [1] * 3),
    ):
        nets.unary(f"{axis} {sizes_}", "Split", s, axis=axis, split=sizes_, outs=len(sizes_))
    for s in (*SHAPES, BATCH):
        for axis in range(len(s)):
            nets.binary(f"axis {axis}", "Concat", s, s, axis=axis)
        nets.unary("constant", "Concat", s, [positive(*s)], axis=len(s) - 1)
    nets.unary("class token", "Concat", (1, 192, 1, 196), [positive(1, 192, 1, 1)], left=True, axis=3)
    nets.unary("class token", "Concat", (1, 196, 192), [positive(1, 1, 192)], left=True, axis=1)
    for mode in ("constant", "reflect", "edge"):
        for pads in ((0, 0, 1, 1, 0, 0, 1, 1), (0, 8, 0, 0, 0, 8, 0, 0), (0, 0, -1, -1, 0, 0, -1, -1), (0,) * 8):
            nets.unary(f"{mode} {pads}", "Pad", IMAGE, [i64(*pads)], mode=mode)
        nets.unary(f"{mode}", "Pad", ROWS, [i64(0, 1, 0, 0, 0, 0)], mode=mode)
    nets.unary("value", "Pad", IMAGE, [i64(0, 0, 1, 1, 0, 0, 1, 1), f32(1.0)])
    for times in ((1, 1, 2, 2), (1, 2, 1, 1), (1, 1, 1, 4), (2, 1, 1, 1)):
        nets.unary(f"{times}", "Tile", (1, 32, 14, 14), [i64(*times)])
    for s, t in (
        ((1, 32, 1, 1), IMAGE),
        ((1, 1, 28, 28), IMAGE),
        (TOKENS, (1, 192, 4, 197)),
        ((1, 1, 192), ROWS),
        ((1, 16, 1, 1), (4, 16, 1, 1)),
        (IMAGE, IMAGE),
    ):
        nets.unary(f"to {format_shape(t)}", "Expand", s, [i64(*t)])
    for s, axis, index in (
        (IMAGE, 1, i64(3, 1, 2)),
        (IMAGE, 2, i64(*range(0, 28, 2))),
        (IMAGE, 3, i64(*range(27, -1, -1))),
        (ROWS, 1, np.int64(0)),
        (ROWS, 1, i64(0)),
        (ROWS, 2, i64(*range(10))),
        (TOKENS, 3, np.int64(0)),
        (TOKENS, 3, i64(0)),
        ((3, 197, 64), 0, np.int64(1)),
        ((3, 1, 3, 197, 64), 0, np.int64(0)),
    ):
        nets.unary(f"axis {axis} {np.ndim(index)}-D of {np.size(index)}", "Gather", s, [index], axis=axis)
    for block in (2, 4, 7):
        nets.unary(f"{block}", "SpaceToDepth", (1, 16, 28, 28), blocksize=block)
        for mode in ("DCR", "CRD"):
            nets.unary(f"{block} {mode}", "DepthToSpace", (1, 16 * block**2, 14, 14), blocksize=block, mode=mode)


def resizes(nets: NetworkSet) -> None:
    """Add resizes with every mode, coordinate transform and factor that exporters write."""
    for mode in ("nearest", "linear", "cubic"):
        for where in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"):
            for h, w in ((2, 2), (4, 4), (0.5, 0.5), (1.5, 1.5), (3, 3), (2, 4), (4, 2), (8, 8), (1.25, 1.25)):
                if (h, w) != (2, 2) and where not in ("asymmetric", "half_pixel"):
                    continue
                more: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
                nets.unary(
                    f"{mode} {where} {h} {w}",
                    "Resize",
                    (1, 32, 16, 16),
                    [f32([]), f32([1, 1, h, w])],
                    mode=mode,
                    coordinate_transformation_mode=where,
                    **more,
                )
    nets.unary(
        "channels", "Resize", IMAGE, [f32([]), f32([1, 2, 2, 2])], mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def sizes(nets: NetworkSet) -> None:
    """Add operators at X3's documented channel limits."""
    for c in (2048, 2049):
        s = (1, c, 4, 4)
        nets.binary("wide", "Add", s, s)
        nets.binary("wide", "Mul", s, (1, c, 1, 1))
        for op in ("GlobalAveragePool", "Sigmoid"):
            nets.unary("wide", op, s)


def others(nets: NetworkSet) -> None:
    """Add rare operators."""
    for to in (TensorProto.INT32, TensorProto.FLOAT16, TensorProto.FLOAT):
        nets.unary(f"{to}", "Cast", IMAGE, to=to)

    def of_a_comparison(op: str, count: int) -> None:
        def build(net: NetworkBuilder) -> Any:
            return net.node(
                op, [net.node("Greater", [net.feature(IMAGE), net.const(f32(0))]) for _ in range(count)], OP
            )

        nets.add(f"{op} of comparisons", build)

    of_a_comparison("Not", 1)
    of_a_comparison("And", 2)
    nets.unary("", "GatherElements", (1, 8, 14, 14), [np.zeros((1, 8, 14, 14), np.int64)], axis=3)
    nets.unary("", "GatherND", (1, 8, 14, 14), [np.zeros((1, 8, 3), np.int64)])
    nets.unary("", "ScatterND", (1, 8, 14, 14), [np.zeros((1, 8, 1, 4), np.int64), positive(1, 8, 1)])
    weights = small(1, 64, 32), small(1, 64, 16)
    nets.add(
        "LSTM",
        lambda net: net.node("LSTM", [net.feature((10, 1, 32)), *map(net.const, weights)], OP, 3, hidden_size=16)[0],
    )
    nets.unary("", "Mod", (1, 8, 4, 4), [f32(2.0)], fmod=1)
