"""Limits on one measure of a node, a tuple of sizes, numbers, strings or booleans: each is one of a few comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

from bpudeploy.conformance.graph import Dims, NodeView, changed_axes
from bpudeploy.conformance.table import Range, Rule


class Unchecked(str):
    """Why a limit cannot be checked; any other text of a check says how it is violated."""

    __slots__ = ()


def text(dims: Iterable[int | str]) -> str:
    """Return ``3x3``."""
    return "x".join(map(str, dims)) or "scalar"


def at_most(what: str, values: Iterable[int], limit: int) -> Iterator[str]:
    """Yield a violation if a value is above ``limit``."""
    if (largest := max(values, default=0)) > limit:
        yield f"{what} {largest}, the limit is {limit}"


def within(what: str, values: Dims, limit: Range) -> Iterator[str]:
    """Yield a violation if a value is outside ``limit`` (least, most)."""
    low, high = limit
    if any(not low <= v <= high for v in values):
        wanted = f"must be {low}" if low == high else f"the limit is {high}" if low <= 1 else f"must be {low} to {high}"
        yield f"{what} {text(values)}, {wanted}"


def one_of(what: str, values: tuple[int | str, ...], allowed: tuple[int | str, ...] | int) -> Iterator[str]:
    """Yield a violation if a value is not among ``allowed``."""
    allowed = allowed if isinstance(allowed, tuple) else (allowed,)
    if not set(values) <= set(allowed):
        yield f"{what} {text(values)}, must be {' or '.join(map(str, allowed))}"


def ranks(_: str, shapes: Iterable[Dims], limit: Range) -> Iterator[str]:
    """Yield the first shape whose number of dimensions is outside ``limit``."""
    low, high = limit
    wrong = next((s for s in shapes if not low <= len(s) <= high), None)
    if wrong is not None:
        wanted = f"must be {low}-D" if low == high else f"must have {low} to {high} dimensions"
        yield f"{len(wrong)}-D tensor {text(wrong)}, {wanted}"


def ordered(what: str, values: Dims, _: Rule) -> Iterator[str]:
    """Yield a violation if the value of H is above that of W."""
    if len(values) == 2 and values[0] > values[1]:
        yield f"{what} {text(values)}, that of H must not exceed that of W"


def holds(violation: str, values: Iterable[bool], _: object) -> Iterator[str]:
    """Yield the violation unless all ``values`` are true."""
    if not all(values):
        yield violation


def maps(node: NodeView) -> list[Dims]:
    """Return the shapes of the input and output feature maps."""
    return [t.dims for t in (*node.features, *node.outputs)]


def pair(node: NodeView) -> tuple[Dims, Dims]:
    """Return the shapes of the two operands."""
    return node.operand(0).dims, node.operand(1).dims


def weight(node: NodeView) -> Dims:
    """Return (out, in / group, *kernel); a Gemm is a 1x1 convolution."""
    found = node.operand(1).dims
    if node.op == "Gemm":
        return (*(found if node.attributes.get("transB", 0) else found[::-1]), 1, 1)
    return found


def kernel(node: NodeView) -> Dims:
    """Return the kernel of a convolution or a pooling."""
    return node.numbers("kernel_shape", default=weight(node)[2:] if node.op in ("Conv", "ConvTranspose") else ())


def strides(node: NodeView) -> Dims:
    """Return one stride per axis of the kernel."""
    return node.numbers("strides", default=[1] * len(kernel(node)))


def dilations(node: NodeView) -> Dims:
    """Return one dilation per axis of the kernel."""
    return node.numbers("dilations", default=[1] * len(kernel(node)))


def _height_and_width(node: NodeView) -> Dims:
    """Return (H, W) of a 4-D input, else ()."""
    return node.features[0].dims[2:] if node.rank == 4 else ()


def _channels(node: NodeView) -> Iterator[int]:
    """Yield those of every feature map; an ArgMax's inputs, a Concat's outputs only. A Gemm is checked as a Conv."""
    if node.op != "Gemm":
        checked = {"ArgMax": node.features, "Concat": node.outputs}.get(node.op, (*node.features, *node.outputs))
        yield from (t.dims[1] for t in checked if len(t.dims) > 1)


def _mode(node: NodeView) -> tuple[str]:
    return (node.attributes.get("mode", {"Pad": "constant", "Resize": "nearest"}.get(node.op, "bilinear")),)


MEASURES: dict[str, tuple[Callable[[str, Any, Any], Iterator[str]], str, Callable[[NodeView], Iterable[Any]]]] = {
    "rank": (ranks, "", maps),
    "max_rank": (at_most, "rank", lambda n: map(len, maps(n))),
    "max_channels": (at_most, "channels", _channels),
    "max_channels_hw1": (at_most, "input channels", lambda n: weight(n)[1:2] if n.op == "Gemm" else ()),
    "max_hw": (at_most, "H*W is", lambda n: [prod(_height_and_width(n))]),
    "max_first_dim": (at_most, "first dimension", lambda n: (s[0] for s in maps(n) if s)),
    "max_dim": (at_most, "dimension", lambda n: (d for s in maps(n) for d in s)),
    "max_axis": (at_most, "size of the reduced axis", lambda n: [n.features[0].dims[a] for a in n.reduced_axes]),
    "max_const_inputs": (at_most, "constant operands", lambda n: [len(n.constants)]),
    "max_mkn": (at_most, "K is", lambda n: () if n.constants else n.operand(0).dims[-1:]),
    "max_other_dim": (at_most, "batch dimension", lambda n: (d for s in pair(n) for d in s[:-2])),
    "dims_changed": (
        at_most,
        "dimensions that change",
        lambda n: [len(changed_axes(n.features[0].dims, n.outputs[0].dims))],
    ),
    "h": (within, "H", lambda n: _height_and_width(n)[:1]),
    "w": (within, "W", lambda n: _height_and_width(n)[1:]),
    "kernel_nc": (within, "kernel N and C", lambda n: weight(n)[:2]),
    "kernel_hw": (within, "kernel", kernel),
    "kernel": (within, "kernel", kernel),
    "stride": (within, "stride", strides),
    "dilation": (within, "dilation", dilations),
    "output_padding": (within, "output padding", lambda n: n.numbers("output_padding", default=[0])),
    "stride_in": (one_of, "stride", strides),
    "axis": (one_of, "axis", lambda n: [n.axis]),
    "keepdims": (one_of, "keepdims", lambda n: n.numbers("keepdims", default=[1])),
    "blocksize": (one_of, "blocksize", lambda n: n.numbers("blocksize")),
    "mode": (one_of, "mode", _mode),
    "coord": (one_of, "coordinates", lambda n: [n.attributes.get("coordinate_transformation_mode", "half_pixel")]),
    "stride_order": (ordered, "stride", strides),
    "both_featuremaps": (holds, "one operand is a constant, both must be feature maps", lambda n: [not n.constants]),
    "operands": (
        holds,
        Unchecked("the list covers two feature maps; the tool may turn an operator with a constant into a Conv"),
        lambda n: [not n.constants],
    ),
    "indices": (holds, Unchecked("indices that are not constant must be int32"), lambda n: [n.operand(1).constant]),
    "only_graph_output": (holds, "only supported as the network's output", lambda n: [n.is_graph_output]),
    "io": (holds, Unchecked(f"{Rule.GEMM_IO}: its producer is decided by the tool"), lambda _: [False]),
    "padding": (one_of, "padding", lambda n: [n.attributes.get("padding_mode", "zeros")]),
}
"""Limit -> (how it is compared, what the message calls it, its measure)."""
