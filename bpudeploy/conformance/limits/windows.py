"""Limits on convolutions and poolings: kernels, channels, strides, pads, dilations."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from bpudeploy.conformance.limits.base import (
    Case,
    Check,
    LimitFinding,
    at_most,
    broken,
    numbers,
    operand,
    shape,
    text,
    unchecked,
    within,
)
from bpudeploy.conformance.table import Range, Rule


def _weight(case: Case) -> tuple[int, ...]:
    """Return (out, in / group, *kernel); a Gemm is a 1x1 convolution."""
    found = shape(operand(case, 1))
    if case.node.op == "Gemm":
        return (*(found if case.node.attributes.get("transB", 0) else found[::-1]), 1, 1)
    return found


def _kernel(case: Case) -> tuple[int, ...]:
    default = _weight(case)[2:] if case.node.op in ("Conv", "ConvTranspose") else ()
    return numbers(case, "kernel_shape", None, default)


def _strides(case: Case) -> tuple[int, ...]:
    return numbers(case, "strides", None, [1] * len(_kernel(case)))


def _dilations(case: Case) -> tuple[int, ...]:
    return numbers(case, "dilations", None, [1] * len(_kernel(case)))


def _kernel_nc(case: Case, limit: Range) -> Iterator[LimitFinding]:
    yield from within("kernel N and C", _weight(case)[:2], limit)


def _kernel_hw(case: Case, limit: Range) -> Iterator[LimitFinding]:
    yield from within("kernel", _kernel(case), limit)


def _pool_kernel(case: Case, limit: Range | Rule) -> Iterator[LimitFinding]:
    kernel = _kernel(case)
    if not isinstance(limit, Rule):
        yield from within("kernel", kernel, limit)
    elif max(kernel) > 7 and not (_tiles(case) and (_is_global(case) or all(map(_has_small_factors, kernel)))):
        yield broken(f"kernel {text(kernel)} with stride {text(_strides(case))}, must be {limit.value}")


def _is_global(case: Case) -> bool:
    return shape(case.node.features[0])[2:] == _kernel(case)


def _tiles(case: Case) -> bool:
    """Return whether the windows do not overlap."""
    return _strides(case) == _kernel(case) or _is_global(case)


def _has_small_factors(n: int) -> bool:
    for factor in (2, 3, 5, 7):
        while n % factor == 0:
            n //= factor
    return n == 1


def _kernel_volume(case: Case, limit: int) -> Iterator[LimitFinding]:
    if case.node.op in ("Conv", "Gemm"):
        yield from at_most("C*kh*kw of the kernel is", prod(_weight(case)[1:]), limit)
    elif not _tiles(case):
        yield from at_most("kh*kw of the kernel is", prod(_kernel(case)), limit)


def _channels_per_group(case: Case, limit: int) -> Iterator[LimitFinding]:
    """Check input and output channels; other limits apply to one group and to a 1x1 output."""
    limits, group = case.limits, numbers(case, "group", None, [1])[0]
    weight = _weight(case)
    inner, outer = weight[1], weight[0] // group
    if limits.max_channels_hw1 is not None and case.node.op == "Conv" and set(shape(case.node.outputs[0])[2:]) == {1}:
        yield from at_most("input channels of a 1x1 output", inner, limits.max_channels_hw1)
        return
    if group == 1 and limits.max_channels_plain is not None:
        limit = limits.max_channels_plain
    yield from at_most("input channels per group", inner, limit)
    yield from at_most("output channels per group", outer, limit)


def _gemm_channels(case: Case, limit: int) -> Iterator[LimitFinding]:
    if case.node.op == "Gemm":
        yield from at_most("input channels", _weight(case)[1], limit)


def _stride(case: Case, limit: Range | Rule) -> Iterator[LimitFinding]:
    strides = _strides(case)
    if not isinstance(limit, Rule):
        yield from within("stride", strides, limit)
    elif limit is Rule.STRIDE_WITH_ADD and max(strides) > 2 and "Add" in case.node.consumers:
        yield unchecked(f"stride {text(strides)} before an Add: must be 1 or 2 if the tool fuses them")


def _stride_in(case: Case, allowed: tuple[int, ...]) -> Iterator[LimitFinding]:
    if not set(_strides(case)) <= set(allowed):
        yield broken(f"stride {text(_strides(case))}, must be {' or '.join(map(str, allowed))}")


def _stride_order(case: Case, _: Rule) -> Iterator[LimitFinding]:
    yield from _ordered("stride", _strides(case))


def _ordered(what: str, values: tuple[int, ...]) -> Iterator[LimitFinding]:
    if len(values) == 2 and values[0] > values[1]:
        yield broken(f"{what} {text(values)}, that of H must not exceed that of W")


def _dilation(case: Case, limit: Range | Rule) -> Iterator[LimitFinding]:
    found = _dilations(case)
    if not isinstance(limit, Rule):
        yield from within("dilation", found, limit)
    elif limit is Rule.SMALL_DILATION:
        if not set(found) <= {1, 2, 4}:
            yield broken(f"dilation {text(found)}, must be 1, 2 or 4")
        else:
            yield from _ordered("dilation", found)


def _dilated(case: Case, _: Rule) -> Iterator[LimitFinding]:
    if max(_dilations(case), default=1) > 1 and max(_strides(case)) > 1:
        yield broken(f"dilation {text(_dilations(case))} with stride {text(_strides(case))}, must be 1")


def _pad(case: Case, limit: Range | Rule) -> Iterator[LimitFinding]:
    auto = case.node.attributes.get("auto_pad", b"NOTSET")
    if auto not in (b"NOTSET", "NOTSET", b"VALID", "VALID"):
        yield unchecked(f"pads are left to the runtime ({auto.decode() if isinstance(auto, bytes) else auto})")
        return
    pads = numbers(case, "pads", None, [0] * 2 * len(_kernel(case)))
    if not isinstance(limit, Rule):
        yield from within("pads", pads, limit)
    elif limit is Rule.TRANSPOSED_PAD:
        most = list(map(max, pads[: len(pads) // 2], pads[len(pads) // 2 :]))
        for k, stride, pad in zip(_kernel(case), _strides(case), most, strict=True):
            if stride > 2 and k < 2 * pad + stride and not (pad == 1 and stride % 4 == 0):
                yield broken(
                    f"kernel {k}, stride {stride} and pad {pad}: above stride 2, k must be at least 2 * pad + stride"
                )


def _output_padding(case: Case, limit: Range) -> Iterator[LimitFinding]:
    yield from within("output padding", numbers(case, "output_padding", None, [0]), limit)


def lowered_gemm(case: Case) -> Iterator[LimitFinding]:
    """Check a Gemm against the limits of the 1x1 convolution that the tool turns it into."""
    conv = case.table.ops["Conv"].constraints
    if not operand(case, 1).constant:
        yield unchecked("its weight is not a constant, so it cannot become a convolution")
        return
    checks: dict[str, Check] = {"kernel_nc": _kernel_nc, "max_kernel_volume": _kernel_volume}
    if case.limits.max_channels_hw1 is None:
        checks["max_channels_per_group"] = _channels_per_group
    for name, check in checks.items():
        if (limit := getattr(conv, name)) is not None:
            yield from check(Case(case.node, conv, case.table), limit)


CHECKS: dict[str, Check] = {
    "kernel_nc": _kernel_nc,
    "kernel_hw": _kernel_hw,
    "kernel": _pool_kernel,
    "max_kernel_volume": _kernel_volume,
    "max_channels_per_group": _channels_per_group,
    "max_channels_hw1": _gemm_channels,
    "stride": _stride,
    "stride_in": _stride_in,
    "stride_order": _stride_order,
    "dilation": _dilation,
    "dilation_gt1": _dilated,
    "pad": _pad,
    "output_padding": _output_padding,
}
