"""Limits on ranks, channels and sizes of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from bpudeploy.conformance.limits.base import Case, Check, LimitFinding, at_most, broken, shape, text, within
from bpudeploy.conformance.table import GeneralLimits, Range, Rule


def _maps(case: Case) -> list[tuple[int, ...]]:
    """Return the shapes of the input and output feature maps."""
    return [shape(t) for t in (*case.node.features, *case.node.outputs)]


def _height_and_width(case: Case) -> tuple[int, ...]:
    """Return (H, W) of a 4-D input, else ()."""
    found = shape(case.node.features[0])
    return found[2:] if len(found) == 4 else ()


def _rank(case: Case, limit: Range | Rule) -> Iterator[LimitFinding]:
    if isinstance(limit, Rule):
        return
    low, high = limit
    wrong = next((s for s in _maps(case) if not low <= len(s) <= high), None)
    if wrong is not None:
        wanted = f"must be {low}-D" if low == high else f"must have {low} to {high} dimensions"
        yield broken(f"{len(wrong)}-D tensor {text(wrong)}, {wanted}")


def _max_rank(case: Case, limit: int) -> Iterator[LimitFinding]:
    yield from at_most("rank", max(map(len, _maps(case))), limit)


def _channels(case: Case, limit: int) -> Iterator[LimitFinding]:
    """Check every feature map; an ArgMax's inputs and a Concat's outputs only. A Gemm is checked as a Conv."""
    if case.node.op == "Gemm":
        return
    checked = {"ArgMax": case.node.features, "Concat": case.node.outputs}.get(case.node.op)
    found = _maps(case) if checked is None else map(shape, checked)
    yield from at_most("channels", max((s[1] for s in found if len(s) > 1), default=0), limit)


def _max_hw(case: Case, limit: int) -> Iterator[LimitFinding]:
    yield from at_most("H*W is", prod(_height_and_width(case) or (0,)), limit)


def _h(case: Case, limit: Range) -> Iterator[LimitFinding]:
    yield from within("H", _height_and_width(case)[:1], limit)


def _w(case: Case, limit: Range) -> Iterator[LimitFinding]:
    yield from within("W", _height_and_width(case)[1:], limit)


def _first_dim(case: Case, limit: int) -> Iterator[LimitFinding]:
    yield from at_most("first dimension", max((s[0] for s in _maps(case) if s), default=0), limit)


def _dim(case: Case, limit: int) -> Iterator[LimitFinding]:
    yield from at_most("dimension", max((n for s in _maps(case) for n in s), default=0), limit)


def general(case: Case, *, ranks: bool = True) -> Iterator[LimitFinding]:
    """Yield the first violation of what applies to every tensor on this BPU; without ``ranks``, of sizes only."""
    rules, limits = case.table.general, case.limits
    if not case.table.complete:
        return
    own_rank = any(x is not None for x in (limits.rank, limits.max_rank, limits.const_weight, limits.lowered_to))
    rank = rules.rank if ranks and not own_rank else None
    for dims in _maps(case):
        first = next(_general(dims, rank, rules), None)
        if first is not None:
            yield first
            return


def _general(dims: tuple[int, ...], rank: int | None, rules: GeneralLimits) -> Iterator[LimitFinding]:
    if rank is not None and len(dims) != rank:
        yield broken(f"{len(dims)}-D tensor {text(dims)}, must be {rank}-D")
    batch = dims[0] if len(dims) == 4 else 0
    for what, value, limit in (
        ("batch", batch, rules.max_batch),
        ("N is", batch, rules.max_n),
        ("dimension", max(dims, default=0), rules.max_dim),
        ("int8 tensor bytes", prod(dims), rules.max_tensor_bytes),
    ):
        if limit is not None:
            yield from at_most(what, value, limit)


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
