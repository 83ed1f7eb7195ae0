"""Declared approximations of the exact graph: what a recipe may ask for, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen

BlockIndex = Annotated[int, Field(ge=0, le=999)]
Pair = Annotated[tuple[BlockIndex, BlockIndex], Field(strict=False)]
Problem = tuple[tuple[str | int, ...], str, str]
"""A field's path below ``approximate``, what is wrong there, and the fix."""


class GeluForm(StrEnum):
    """How GELU is approximated; formulas and errors are in ``approximate/gelu.py``."""

    TANH = "tanh"
    QUICK = "quick"
    PIECEWISE = "piecewise"


class PruneHeadsSpec(Frozen):
    """Which attention heads are removed: a share of all, or named ones; one of the two."""

    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of all heads, those of least importance on the calibration images; each block keeps one."""
    heads: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    """[block, head] each, both counted from 0."""


class ReduceTokensSpec(Frozen):
    """Fewer patch tokens from one block on: their grid is average-pooled; class and register tokens stay."""

    after_block: BlockIndex
    factor: Annotated[int, Field(ge=2, le=16)] = 2
    """Side of the pooled square, in patches; it must divide the grid's height and width."""


class ApproximateSpec(Frozen):
    """Approximations, none unless named; blocks are counted from 0 in the original network.

    They are applied in this order, whatever the order in the recipe: drop_blocks, linear_blocks,
    parallel_blocks, reduce_tokens, prune_heads, gelu.
    """

    drop_blocks: Annotated[tuple[BlockIndex, ...], Field(strict=False)] = ()
    """Blocks whose attention and MLP are both removed."""
    linear_blocks: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    """[first, last] each: that chain of blocks becomes one 1x1 convolution, fitted on the calibration images."""
    parallel_blocks: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    """[i, i + 1] each: the two blocks run side by side instead of one after the other."""
    reduce_tokens: ReduceTokensSpec | None = None
    prune_heads: PruneHeadsSpec | None = None
    gelu: Annotated[GeluForm, Field(strict=False)] | None = None
    """Every exact GELU by this approximation."""

    @property
    def linear(self) -> frozenset[int]:
        """All blocks inside ``linear_blocks``."""
        return frozenset(i for first, last in self.linear_blocks for i in range(first, last + 1))


def problems(spec: ApproximateSpec) -> Iterator[Problem]:
    """Yield what can be known to be wrong before any network is seen."""
    for i, (first, last) in enumerate(spec.linear_blocks):
        if first > last:
            yield ("linear_blocks", i), f"[{first}, {last}] runs backwards", f"write [{last}, {first}]"
    for i, (first, second) in enumerate(spec.parallel_blocks):
        if second != first + 1:
            fix = f"write [{first}, {first + 1}]"
            yield ("parallel_blocks", i), f"[{first}, {second}] are no neighbours, one after the other", fix
    yield from _claimed_twice(spec)
    yield from _heads(spec)
    if spec.reduce_tokens is not None:
        yield from _tokens(spec, spec.reduce_tokens.after_block)


def _claimed_twice(spec: ApproximateSpec) -> Iterator[Problem]:
    ranges: list[tuple[tuple[str | int, ...], range]] = [
        *((("drop_blocks", i), range(b, b + 1)) for i, b in enumerate(spec.drop_blocks)),
        *((("linear_blocks", i), range(a, b + 1)) for i, (a, b) in enumerate(spec.linear_blocks)),
        *((("parallel_blocks", i), range(a, b + 1)) for i, (a, b) in enumerate(spec.parallel_blocks)),
    ]
    owner: dict[int, str | int] = {}
    for path, blocks in ranges:
        taken = next((b for b in blocks if b in owner), None)
        if taken is not None:
            yield path, f"block {taken} is already in {owner[taken]}", "name each block once"
        owner |= dict.fromkeys(blocks, path[0])


def _heads(spec: ApproximateSpec) -> Iterator[Problem]:
    prune = spec.prune_heads
    if prune is None:
        return
    if (prune.share is None) == (not prune.heads):
        text = "share and heads exclude each other" if prune.heads else "share or heads is missing"
        yield ("prune_heads",), text, "give one of the two, like `share: 0.25` or `heads: [[0, 2]]`"
    if len(set(prune.heads)) != len(prune.heads):
        yield ("prune_heads", "heads"), "a head is named twice", "name each once"
    paired = {i for pair in spec.parallel_blocks for i in pair}
    for i, (block, _) in enumerate(prune.heads):
        where = {"drop_blocks": block in spec.drop_blocks, "linear_blocks": block in spec.linear}
        where["parallel_blocks"] = block in paired
        for option, inside in where.items():
            if inside:
                yield ("prune_heads", "heads", i), f"block {block} is in {option}", "name heads of other blocks"


def _tokens(spec: ApproximateSpec, after: int) -> Iterator[Problem]:
    path = ("reduce_tokens", "after_block")
    gone = dict.fromkeys(spec.drop_blocks, "drop_blocks") | dict.fromkeys(spec.linear, "linear_blocks")
    beside = "parallel_blocks, where it ends with its neighbour"
    gone |= dict.fromkeys((first for first, _ in spec.parallel_blocks), beside)
    if after in gone:
        yield path, f"block {after} is in {gone[after]}", "name a block that stays"
