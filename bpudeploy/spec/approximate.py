"""Approximations of the exact graph that a recipe may declare, and their mutual exclusions."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen

BlockIndex = Annotated[int, Field(ge=0, le=999)]
Pair = Annotated[tuple[BlockIndex, BlockIndex], Field(strict=False)]
Problem = tuple[tuple[str | int, ...], str, str]
"""Field path below the section, message and hint."""


class GeluForm(StrEnum):
    """Approximation of GELU; formulas and errors are in ``approximate/gelu.py``."""

    TANH = "tanh"
    QUICK = "quick"
    PIECEWISE = "piecewise"


class PruneHeadsSpec(Frozen):
    """The attention heads to remove: either a share of all or a list."""

    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of all heads, 0 to 1, least important first (on the calibration images); each block keeps one."""
    heads: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    """List of [block, head], both counted from 0."""


class ReduceTokensSpec(Frozen):
    """Average-pool the grid of patch tokens after one block; class and register tokens are kept."""

    after_block: BlockIndex
    """Index of the block after which tokens are pooled, counted from 0."""
    factor: Annotated[int, Field(ge=2, le=16)] = 2
    """Side of the pooling window in patches, 2 by default; must divide the grid's height and width."""


class ApproximateSpec(Frozen):
    """Approximations, none by default; blocks are counted from 0 in the original network.

    Always applied in this order: drop_blocks, linear_blocks, parallel_blocks, reduce_tokens, prune_heads, gelu.
    """

    drop_blocks: Annotated[tuple[BlockIndex, ...], Field(strict=False)] = ()
    """Indices of blocks to remove (attention and MLP)."""
    linear_blocks: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    """List of [first, last]: each chain of blocks becomes one 1x1 convolution, fitted on the calibration images."""
    parallel_blocks: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    """List of [i, i + 1]: each pair of blocks runs in parallel instead of in sequence."""
    reduce_tokens: ReduceTokensSpec | None = None
    """Average-pool the patch tokens after one block."""
    prune_heads: PruneHeadsSpec | None = None
    """Attention heads to remove."""
    gelu: Annotated[GeluForm, Field(strict=False)] | None = None
    """Approximation that replaces every exact GELU."""

    @property
    def linear(self) -> frozenset[int]:
        """All blocks inside ``linear_blocks``."""
        return frozenset(i for first, last in self.linear_blocks for i in range(first, last + 1))


def problems(spec: ApproximateSpec) -> Iterator[Problem]:
    """Yield the problems that can be found without the network."""
    for i, (first, last) in enumerate(spec.linear_blocks):
        if first > last:
            yield ("linear_blocks", i), f"[{first}, {last}] is reversed", f"write [{last}, {first}]"
    for i, (first, second) in enumerate(spec.parallel_blocks):
        if second != first + 1:
            fix = f"write [{first}, {first + 1}]"
            yield ("parallel_blocks", i), f"blocks {first} and {second} are not consecutive", fix
    yield from _overlaps(spec)
    yield from _heads(spec)
    if spec.reduce_tokens is not None:
        yield from _tokens(spec, spec.reduce_tokens.after_block)


def _overlaps(spec: ApproximateSpec) -> Iterator[Problem]:
    ranges: list[tuple[tuple[str | int, ...], range]] = [
        *((("drop_blocks", i), range(b, b + 1)) for i, b in enumerate(spec.drop_blocks)),
        *((("linear_blocks", i), range(a, b + 1)) for i, (a, b) in enumerate(spec.linear_blocks)),
        *((("parallel_blocks", i), range(a, b + 1)) for i, (a, b) in enumerate(spec.parallel_blocks)),
    ]
    owner: dict[int, str | int] = {}
    for path, blocks in ranges:
        taken = next((b for b in blocks if b in owner), None)
        if taken is not None:
            yield path, f"block {taken} is already in {owner[taken]}", "list each block once"
        owner |= dict.fromkeys(blocks, path[0])


def _heads(spec: ApproximateSpec) -> Iterator[Problem]:
    prune = spec.prune_heads
    if prune is None:
        return
    if (prune.share is None) == (not prune.heads):
        text = "share and heads are mutually exclusive" if prune.heads else "share or heads is missing"
        yield ("prune_heads",), text, "give one of the two, like `share: 0.25` or `heads: [[0, 2]]`"
    if len(set(prune.heads)) != len(prune.heads):
        yield ("prune_heads", "heads"), "a head is listed twice", "list each head once"
    paired = {i for pair in spec.parallel_blocks for i in pair}
    for i, (block, _) in enumerate(prune.heads):
        changed = {"drop_blocks": spec.drop_blocks, "linear_blocks": spec.linear, "parallel_blocks": paired}
        for option in (option for option, blocks in changed.items() if block in blocks):
            yield ("prune_heads", "heads", i), f"block {block} is in {option}", "list heads of other blocks"


def _tokens(spec: ApproximateSpec, after: int) -> Iterator[Problem]:
    changed = dict.fromkeys(spec.drop_blocks, "drop_blocks") | dict.fromkeys(spec.linear, "linear_blocks")
    changed |= dict.fromkeys((first for first, _ in spec.parallel_blocks), "parallel_blocks and ends with the next one")
    if after in changed:
        yield ("reduce_tokens", "after_block"), f"block {after} is in {changed[after]}", "choose a block that is kept"
