"""Limits on ranks, channels and sizes of tensors."""

from __future__ import annotations

from collections.abc import Iterator

from bpudeploy.conformance.limits.base import Case, Check, Finding, at_most, broken, shape, text, within
from bpudeploy.conformance.table import Rule


def _maps(case: Case) -> list[tuple[int, ...]]:
    """Return the shapes of the feature maps in and out."""
    return [shape(t) for t in (*case.node.features, *case.node.outputs)]


def _rank(case: Case) -> Iterator[Finding]:
    limit = case.limits.rank
    if limit is Rule.ANY or limit is None or isinstance(limit, Rule):
        return
    wrong = next((s for s in _maps(case) if not limit[0] <= len(s) <= limit[1]), None)
    if wrong is not None:
        wanted = f"{limit[0]}-D" if limit[0] == limit[1] else f"{limit[0]} to {limit[1]} dimensions"
        yield broken(f"{len(wrong)}-D tensor {text(wrong)}, it must have {wanted}".replace("have 4-D", "be 4-D"))


def _max_rank(case: Case) -> Iterator[Finding]:
    assert case.limits.max_rank is not None
    yield from at_most("rank", max(len(s) for s in _maps(case)), case.limits.max_rank)


def _channels(case: Case) -> Iterator[Finding]:
    """Channels of every 4-D feature map; of a Gemm only where H or W is more than 1."""
    assert case.limits.max_channels is not None
    if case.node.op == "Gemm":
        return
    if case.node.op == "ArgMax":
        seen = [shape(t) for t in case.node.features]
    elif case.node.op == "Concat":
        seen = [shape(t) for t in case.node.outputs]
    else:
        seen = _maps(case)
    channels = [s[1] for s in seen if len(s) > 1]
    if channels:
        yield from at_most("channels", max(channels), case.limits.max_channels)


def _max_hw(case: Case) -> Iterator[Finding]:
    assert case.limits.max_hw is not None
    found = shape(case.node.features[0])
    if len(found) == 4:
        yield from at_most("H*W is", found[2] * found[3], case.limits.max_hw)


def _h(case: Case) -> Iterator[Finding]:
    assert case.limits.h is not None
    found = shape(case.node.features[0])
    if len(found) == 4:
        yield from within("H", found[2:3], case.limits.h)


def _w(case: Case) -> Iterator[Finding]:
    assert case.limits.w is not None
    found = shape(case.node.features[0])
    if len(found) == 4:
        yield from within("W", found[3:], case.limits.w)


def _first_dim(case: Case) -> Iterator[Finding]:
    assert case.limits.max_first_dim is not None
    firsts = [s[0] for s in _maps(case) if s]
    if firsts:
        yield from at_most("first dimension", max(firsts), case.limits.max_first_dim)


def _dim(case: Case) -> Iterator[Finding]:
    assert case.limits.max_dim is not None
    sizes = [n for s in _maps(case) for n in s]
    if sizes:
        yield from at_most("dimension", max(sizes), case.limits.max_dim)


def general(case: Case, *, ranks: bool = True) -> Iterator[Finding]:
    """Check what holds of every tensor on this BPU; ``ranks`` too, or sizes alone."""
    rules, limits = case.table.general, case.limits
    if not case.table.complete:
        return
    own_rank = (
        limits.rank is not None
        or limits.max_rank is not None
        or limits.const_weight is not None
        or limits.lowered_to is not None
    )
    for found in _maps(case):
        if ranks and rules.rank is not None and not own_rank and len(found) != rules.rank:
            yield broken(f"{len(found)}-D tensor {text(found)}, it must be {rules.rank}-D")
            return
        if rules.max_batch is not None and found and found[0] > rules.max_batch and len(found) == 4:
            yield broken(f"batch {found[0]}, the limit is {rules.max_batch}")
            return
        if rules.max_n is not None and len(found) == 4 and found[0] > rules.max_n:
            yield broken(f"N is {found[0]}, the limit is {rules.max_n}")
            return
        if rules.max_dim is not None and found and max(found) > rules.max_dim:
            yield broken(f"dimension {max(found)}, the limit is {rules.max_dim}")
            return
        if rules.max_tensor_bytes is not None:
            size = 1
            for n in found:
                size *= n
            if size > rules.max_tensor_bytes:
                yield broken(f"tensor of {size} bytes at int8, the limit is {rules.max_tensor_bytes}")
                return


CHECKS: dict[str, Check] = {
    "rank": _rank,
    "max_rank": _max_rank,
    "max_channels": _channels,
    "max_hw": _max_hw,
    "h": _h,
    "w": _w,
    "max_first_dim": _first_dim,
    "max_dim": _dim,
}
