"""prune_heads: remove attention heads, that is rows of q, k, v and columns of the projection.

A head h adds V_h a_h to the stream (a_h: its output, V_h: its columns of the projection). A removed head is replaced by
its mean over the calibration tokens, V_h·E[a_h], folded into the projection's bias. Its variation is lost:

    importance(h) = E|V_h (a_h - E[a_h])|² / E|x'|²      x': the stream after the attention

computed in float64 from sums of a_h and a_h a_hᵀ. With a share, the least important heads of all blocks are removed;
each block keeps one. In Michel et al., "Are Sixteen Heads Really Better than One?" (NeurIPS 2019), importance is a
gradient; this one requires neither labels nor gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bpudeploy.approximate.blocks import Block, BranchKind, find_blocks, nodes_between, select_blocks
from bpudeploy.approximate.head_map import HeadMap, map_heads, remove_heads
from bpudeploy.approximate.linear import Activations
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import store, tidy
from bpudeploy.restructure.graph import Graph, Node
from bpudeploy.spec.operators import VIEWS


@dataclass
class _Attention:
    """The heads of one block, and sums of their outputs (heads, size) over the calibration tokens."""

    block: Block
    heads: HeadMap
    projection: Node
    count: int = 0
    stream: float = 0.0

    def __post_init__(self) -> None:
        h, d = self.heads.count, self.heads.size
        self.sum, self.products = np.zeros((h, d)), np.zeros((h, d, d))

    def add(self, inputs: NDArray[np.float32], stream: NDArray[np.float32]) -> None:
        """Add the projection's input and the stream after the attention, each (B, C, H, W)."""
        rows = inputs.astype(np.float64).transpose(1, 0, 2, 3).reshape(inputs.shape[1], -1)
        by_head = rows[self.heads.columns]  # (h, d, tokens)
        self.count += rows.shape[1]
        self.sum += by_head.sum(axis=2)
        self.products += by_head @ by_head.transpose(0, 2, 1)
        self.stream += float((stream.astype(np.float64) ** 2).sum())

    def importance(self, graph: Graph) -> NDArray[np.float64]:
        """Return the importance of each head."""
        weight = graph.constants[self.projection.inputs[1]][:, :, 0, 0].astype(np.float64)
        lost = []
        for columns, total, products in zip(self.heads.columns, self.sum, self.products, strict=True):
            covariance = products - np.outer(total, total) / self.count
            lost.append(np.sum((weight[:, columns] @ covariance) * weight[:, columns]))
        return np.array(lost) / self.stream

    def remove(self, graph: Graph, heads: Sequence[int]) -> None:
        """Remove ``heads`` and add their mean to the projection's bias."""
        weight = graph.constants[self.projection.inputs[1]]
        columns = self.heads.columns[list(heads)].reshape(-1)
        mean = (self.sum[list(heads)] / self.count).reshape(-1)
        bias = graph.constants[self.projection.inputs[2]].astype(np.float64) if len(self.projection.inputs) > 2 else 0.0
        bias = bias + weight[:, columns, 0, 0].astype(np.float64) @ mean
        self.projection.inputs[2:] = [store(graph, bias.astype(weight.dtype), f"{self.projection.name}.pruned.bias")]
        remove_heads(graph, self.heads, heads)


def prune_heads(
    graph: Graph,
    share: float | None,
    heads: Sequence[tuple[int, int]],
    activations: Activations,
    absent: Collection[int] = (),
) -> str:
    """Remove a share of all heads, or the named ``heads`` (block, head); return a summary.

    Raises:
        StageError: a block or head does not exist, an attention is not supported, or a block would keep no head.
    """
    blocks = find_blocks(graph, absent)
    chosen = (
        select_blocks(blocks, dict.fromkeys(b for b, _ in heads), "prune_heads") if share is None else blocks.values()
    )
    attentions = [
        _attention(graph, block) for block in chosen if block.mixer.kind is BranchKind.ATTENTION or share is None
    ]
    if not attentions:
        raise StageError("no block has an attention", hint="remove restructure.approximate.prune_heads")
    _check(attentions, heads)
    wanted = [name for a in attentions for name in (a.projection.inputs[0], a.block.mixer.add)]
    for tensors in activations(list(dict.fromkeys(wanted))):
        for a in attentions:
            a.add(tensors[a.projection.inputs[0]], tensors[a.block.mixer.add])
    importance = [a.importance(graph) for a in attentions]
    if share is not None:
        heads = _least(attentions, importance, share)
    lost = 0.0
    for a, values in zip(attentions, importance, strict=True):
        gone = sorted(h for b, h in heads if b == a.block.index)
        if gone:
            lost += float(values[gone].sum())
            a.remove(graph, gone)
    tidy(graph)
    total = sum(a.heads.count for a in attentions)
    names = ", ".join(f"{b}.{h}" for b, h in heads)
    return f"{len(heads)} of {total} heads removed (block.head {names}), which lose {lost:.2g} of the stream's power"


def _check(attentions: Sequence[_Attention], named: Sequence[tuple[int, int]]) -> None:
    for a in attentions:
        heads = {h for b, h in named if b == a.block.index}
        if heads and max(heads) >= a.heads.count:
            raise StageError(
                f"prune_heads names head {max(heads)} of block {a.block.index}, which has {a.heads.count}",
                hint="head numbers start at 0",
            )
        if len(heads) == a.heads.count:
            raise StageError(
                f"prune_heads names all heads of block {a.block.index}", hint="use drop_blocks, or keep at least one"
            )


def _least(
    attentions: Sequence[_Attention], importance: Sequence[NDArray[np.float64]], share: float
) -> list[tuple[int, int]]:
    """Return the least important heads as (block, head); each block keeps its most important head."""
    removable = [
        (float(value), a.block.index, head)
        for a, values in zip(attentions, importance, strict=True)
        for head, value in enumerate(values)
        if head != int(values.argmax())
    ]
    count = round(share * sum(a.heads.count for a in attentions))
    if not 0 < count <= len(removable):
        raise StageError(
            f"a share of {share:g} is {count} heads, and {len(removable)} can be removed",
            hint="each block keeps at least one head: choose another share",
        )
    return sorted((block, head) for _, block, head in sorted(removable)[:count])


def _attention(graph: Graph, block: Block) -> _Attention:
    name = f"block {block.index}"
    softmaxes = [n for n in block.mixer.nodes if graph.nodes[n].op == "Softmax"]
    if len(softmaxes) != 1 or graph.shape(softmaxes[0])[1] < 2:
        raise StageError(
            f"{name} has {len(softmaxes)} softmaxes of {[graph.shape(s)[1] for s in softmaxes]} heads; exactly one "
            "softmax of at least two heads is supported",
            hint="prune_heads supports only plain softmax attention",
        )
    heads = map_heads(graph, softmaxes[0], block.mixer.nodes, name)
    projections = [p for p, _ in heads.projections]
    after = nodes_between(graph, block.mixer.branch, projections)
    if len(projections) != 1 or after is None or {graph.nodes[n].op for n in after} - VIEWS - {"Concat"}:
        raise StageError(
            f"{name}: its heads are not followed by the projection at the end of the branch, but by "
            f"{', '.join(projections) or 'nothing'}",
            hint="heads followed by talking-heads attention or norms cannot be removed: use drop_blocks",
        )
    return _Attention(block, heads, graph.nodes[projections[0]])
