"""Limits on convolutions and poolings: kernels, channels, strides, pads, dilations."""

from __future__ import annotations

from collections.abc import Iterator

from bpudeploy.conformance.limits.base import (
    Case,
    Check,
    Finding,
    at_most,
    broken,
    numbers,
    operand,
    shape,
    text,
    unchecked,
    volume,
    within,
)
from bpudeploy.conformance.table import Rule

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def _weight(case: Case) -> tuple[int, ...]:
    """Return (out, in / group, *kernel); a Gemm is a 1x1 convolution."""
    found = shape(operand(case, 1))
    if case.node.op == "Gemm":
        return (*(found if case.node.attributes.get("transB", 0) else found[::-1]), 1, 1)
    return found


def _kernel(case: Case) -> tuple[int, ...]:
    if case.node.op in _CONVOLUTIONS:
        return numbers(case, "kernel_shape", None, _weight(case)[2:])
    return numbers(case, "kernel_shape", None)


def _strides(case: Case) -> tuple[int, ...]:
    return numbers(case, "strides", None, [1] * len(_kernel(case)))


def _dilations(case: Case) -> tuple[int, ...]:
    return numbers(case, "dilations", None, [1] * len(_kernel(case)))


def _group(case: Case) -> int:
    return numbers(case, "group", None, [1])[0]


def _kernel_nc(case: Case) -> Iterator[Finding]:
    assert case.limits.kernel_nc is not None
    yield from within("kernel N and C", _weight(case)[:2], case.limits.kernel_nc)


def _kernel_hw(case: Case) -> Iterator[Finding]:
    assert case.limits.kernel_hw is not None
    yield from within("kernel", _kernel(case), case.limits.kernel_hw)


def _pool_kernel(case: Case) -> Iterator[Finding]:
    limit, found = case.limits.kernel, _kernel(case)
    if limit is Rule.POOL_OF_FACTORS:
        whole = shape(case.node.features[0])[2:] == found
        if max(found) > 7 and not whole and not (_tiles(case) and all(_of_small_factors(k) for k in found)):
            yield broken(f"kernel {text(found)} with stride {text(_strides(case))}, it must be {limit.value}")
        return
    assert limit is not None and not isinstance(limit, Rule)
    yield from within("kernel", found, limit)


def _tiles(case: Case) -> bool:
    """Say whether the windows lie side by side, or there is only one."""
    return _strides(case) == _kernel(case) or shape(case.node.features[0])[2:] == _kernel(case)


def _of_small_factors(n: int) -> bool:
    for factor in (2, 3, 5, 7):
        while n % factor == 0:
            n //= factor
    return n == 1


def _kernel_volume(case: Case) -> Iterator[Finding]:
    limit = case.limits.max_kernel_volume
    assert limit is not None
    if case.node.op in ("Conv", "Gemm"):
        yield from at_most("C*kh*kw of the kernel is", volume(_weight(case)[1:]), limit)
    elif not _tiles(case):
        yield from at_most("kh*kw of the kernel is", volume(_kernel(case)), limit)


def _channels_per_group(case: Case) -> Iterator[Finding]:
    """In and out; more where there is one group, or one pixel."""
    limits, group = case.limits, _group(case)
    limit = limits.max_channels_per_group
    assert limit is not None
    weight = _weight(case)
    inner, outer = weight[1], weight[0] // group
    if limits.max_channels_hw1 is not None and case.node.op == "Conv" and set(shape(case.node.outputs[0])[2:]) == {1}:
        yield from at_most("input channels of one pixel", inner, limits.max_channels_hw1)
        return
    if group == 1 and limits.max_channels_plain is not None:
        limit = limits.max_channels_plain
    yield from at_most("input channels a group", inner, limit)
    yield from at_most("output channels a group", outer, limit)


def _gemm_channels(case: Case) -> Iterator[Finding]:
    assert case.limits.max_channels_hw1 is not None
    if case.node.op == "Gemm":
        yield from at_most("input channels", _weight(case)[1], case.limits.max_channels_hw1)


def _stride(case: Case) -> Iterator[Finding]:
    limit, strides = case.limits.stride, _strides(case)
    if limit is Rule.STRIDE_WITH_ADD:
        if max(strides) > 2 and "Add" in case.node.readers:
            yield unchecked(f"stride {text(strides)} before an Add: if the tool fuses them, it must be 1 or 2")
    elif limit is not None and not isinstance(limit, Rule):
        yield from within("stride", strides, limit)


def _stride_in(case: Case) -> Iterator[Finding]:
    allowed = case.limits.stride_in
    assert allowed is not None
    if not set(_strides(case)) <= set(allowed):
        yield broken(f"stride {text(_strides(case))}, it must be {' or '.join(map(str, allowed))}")


def _stride_order(case: Case) -> Iterator[Finding]:
    strides = _strides(case)
    if len(strides) == 2 and strides[0] > strides[1]:
        yield broken(f"stride {text(strides)}, that of H must not be above that of W")


def _dilation(case: Case) -> Iterator[Finding]:
    limit, found = case.limits.dilation, _dilations(case)
    if limit is Rule.SMALL_DILATION:
        if not set(found) <= {1, 2, 4}:
            yield broken(f"dilation {text(found)}, it must be 1, 2 or 4")
        elif len(found) == 2 and found[0] > found[1]:
            yield broken(f"dilation {text(found)}, that of H must not be above that of W")
    elif limit is not None and not isinstance(limit, Rule):
        yield from within("dilation", found, limit)


def _dilated(case: Case) -> Iterator[Finding]:
    if max(_dilations(case), default=1) > 1 and max(_strides(case)) > 1:
        yield broken(f"dilation {text(_dilations(case))} with stride {text(_strides(case))}, it must be 1")


def _pad(case: Case) -> Iterator[Finding]:
    limit, auto = case.limits.pad, case.node.attributes.get("auto_pad", b"NOTSET")
    if auto not in (b"NOTSET", "NOTSET", b"VALID", "VALID"):
        yield unchecked(f"pads are left to the runtime ({auto.decode() if isinstance(auto, bytes) else auto})")
        return
    pads = numbers(case, "pads", None, [0] * 2 * len(_kernel(case)))
    if limit is Rule.TRANSPOSED_PAD:
        most = list(map(max, pads[: len(pads) // 2], pads[len(pads) // 2 :]))
        for k, stride, pad in zip(_kernel(case), _strides(case), most, strict=True):
            if stride > 2 and k < 2 * pad + stride and not (pad == 1 and stride % 4 == 0):
                yield broken(f"kernel {k}, stride {stride} and pad {pad}: above stride 2, k must be 2 * pad + stride")
    elif limit is not None and not isinstance(limit, Rule):
        yield from within("pads", pads, limit)


def _output_padding(case: Case) -> Iterator[Finding]:
    assert case.limits.output_padding is not None
    yield from within("output padding", numbers(case, "output_padding", None, [0]), case.limits.output_padding)


def lowered_gemm(case: Case) -> Iterator[Finding]:
    """Hold a Gemm against the limits of the 1x1 convolution that the tool makes of it."""
    conv = case.table.ops["Conv"].constraints
    if not operand(case, 1).constant:
        yield unchecked("its weight is not a constant, so no convolution can be made of it")
        return
    as_conv = Case(case.node, conv, case.table)
    checks = {"kernel_nc": _kernel_nc, "max_kernel_volume": _kernel_volume}
    if case.limits.max_channels_hw1 is None:
        checks["max_channels_per_group"] = _channels_per_group
    for name, check in checks.items():
        if getattr(conv, name) is not None:
            yield from check(as_conv)


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
