"""prune_heads: attention heads are taken out for good, so q, k, v lose rows and the projection loses columns.

A head h adds V_h a_h to the stream (a_h: its output, V_h: its columns of the projection). Taken out, it is replaced by
its mean over the calibration tokens, V_h·E[a_h], which goes into the projection's bias. What is lost is what varies:

    importance(h) = E|V_h (a_h - E[a_h])|² / E|x'|²      x': the stream after the attention

computed without labels, from sums of a_h and a_h a_hᵀ (float64). With a share, the heads of least importance go, over
all blocks together; each block keeps one. Heads that could go: Michel et al., "Are Sixteen Heads Really Better than
One?" (NeurIPS 2019), where importance is a gradient; ours needs no labels and no gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bpudeploy.approximate.blocks import Block, Branch, choose, cone_of, find_blocks
from bpudeploy.approximate.linear import Activations
from bpudeploy.approximate.places import HeadMap, map_heads, remove_heads
from bpudeploy.approximate.read import store, tidy
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph, Node
from bpudeploy.spec.operators import VIEWS


@dataclass
class _Attention:
    """One block's heads and the sums over calibration tokens that judge them; a_h is (size,) for each head."""

    block: Block
    heads: HeadMap
    projection: Node
    count: int = 0
    stream: float = 0.0

    def start(self) -> None:
        h, d = self.heads.count, self.heads.size
        self.sum, self.products = np.zeros((h, d)), np.zeros((h, d, d))

    def add(self, given: NDArray[np.float32], stream: NDArray[np.float32]) -> None:
        """Take in the projection's input and the stream after the attention, (B, C, H, W) each."""
        rows = given.astype(np.float64).transpose(1, 0, 2, 3).reshape(given.shape[1], -1)
        by_head = rows[self.heads.columns]  # (h, d, tokens)
        self.count += rows.shape[1]
        self.sum += by_head.sum(axis=2)
        self.products += by_head @ by_head.transpose(0, 2, 1)
        self.stream += float((stream.astype(np.float64) ** 2).sum())

    def importance(self, graph: Graph) -> NDArray[np.float64]:
        """Return each head's share of the stream's power."""
        weight = graph.constants[self.projection.inputs[1]][:, :, 0, 0].astype(np.float64)
        lost = []
        for columns, total, products in zip(self.heads.columns, self.sum, self.products, strict=True):
            covariance = products - np.outer(total, total) / self.count
            lost.append(np.sum((weight[:, columns] @ covariance) * weight[:, columns]))
        return np.array(lost) / self.stream

    def remove(self, graph: Graph, heads: Sequence[int]) -> None:
        """Take ``heads`` out, their mean into the projection's bias."""
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
    named: Sequence[tuple[int, int]],
    activations: Activations,
    absent: Collection[int] = (),
) -> str:
    """Remove a share of all heads, or the ``named`` [block, head]; return what was done in words.

    Raises:
        StageError: a block or a head does not exist, an attention is not understood, none would be left.
    """
    blocks = find_blocks(graph, absent)
    chosen = choose(blocks, dict.fromkeys(b for b, _ in named), "prune_heads") if share is None else blocks.values()
    attentions = [_attention(graph, block) for block in chosen if block.mixer.kind is Branch.ATTENTION or share is None]
    if not attentions:
        raise StageError("no block has an attention", hint="remove restructure.approximate.prune_heads")
    _check(attentions, named)
    wanted = [name for a in attentions for name in (a.projection.inputs[0], a.block.mixer.add)]
    for a in attentions:
        a.start()
    for tensors in activations(list(dict.fromkeys(wanted))):
        for a in attentions:
            a.add(tensors[a.projection.inputs[0]], tensors[a.block.mixer.add])
    importance = [a.importance(graph) for a in attentions]
    if share is not None:
        named = _least(attentions, importance, share)
    lost = 0.0
    for a, values in zip(attentions, importance, strict=True):
        heads = sorted(h for b, h in named if b == a.block.index)
        if heads:
            lost += float(values[heads].sum())
            a.remove(graph, heads)
    tidy(graph)
    total = sum(a.heads.count for a in attentions)
    text = ", ".join(f"{b}.{h}" for b, h in named)
    return f"{len(named)} of {total} heads removed (block.head {text}), {lost:.2g} of the stream's power with them"


def _check(attentions: Sequence[_Attention], named: Sequence[tuple[int, int]]) -> None:
    for a in attentions:
        heads = {h for b, h in named if b == a.block.index}
        if heads and max(heads) >= a.heads.count:
            raise StageError(
                f"prune_heads names head {max(heads)} of block {a.block.index}, which has {a.heads.count}",
                hint="heads are counted from 0",
            )
        if len(heads) == a.heads.count:
            raise StageError(
                f"prune_heads names all heads of block {a.block.index}", hint="use drop_blocks, or keep one"
            )


def _least(
    attentions: Sequence[_Attention], importance: Sequence[NDArray[np.float64]], share: float
) -> list[tuple[int, int]]:
    """Return the heads of least importance as (block, head); each block keeps its most important one."""
    free = [
        (float(value), a.block.index, head)
        for a, values in zip(attentions, importance, strict=True)
        for head, value in enumerate(values)
        if head != int(values.argmax())
    ]
    count = round(share * sum(a.heads.count for a in attentions))
    if not 0 < count <= len(free):
        raise StageError(
            f"a share of {share:g} is {count} heads, and {len(free)} can go",
            hint="each block keeps one head: choose another share",
        )
    return sorted((block, head) for _, block, head in sorted(free)[:count])


def _attention(graph: Graph, block: Block) -> _Attention:
    name = f"block {block.index}"
    softmaxes = [n for n in block.mixer.nodes if graph.nodes[n].op == "Softmax"]
    if len(softmaxes) != 1 or graph.shape(softmaxes[0])[1] < 2:
        raise StageError(
            f"{name} has {len(softmaxes)} softmaxes of {[graph.shape(s)[1] for s in softmaxes]} heads; one softmax of "
            "two heads or more is understood",
            hint="prune_heads is for plain softmax attention",
        )
    heads = map_heads(graph, softmaxes[0], block.mixer.nodes, name)
    ends = [p for p, _ in heads.projections]
    behind = cone_of(graph, block.mixer.branch, ends)
    if len(ends) != 1 or behind is None or {graph.nodes[n].op for n in behind} - VIEWS - {"Concat"}:
        raise StageError(
            f"{name}: its heads do not end in the projection that closes the branch, but in "
            f"{', '.join(ends) or 'nothing'}",
            hint="talking heads and norms behind the attention cannot lose heads this way: use drop_blocks",
        )
    return _Attention(block, heads, graph.nodes[ends[0]])
