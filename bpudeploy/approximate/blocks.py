"""Find transformer blocks by structure: pairs of residual additions, token mixing then MLP.

A residual addition is x' = x + f(x) where f depends on no other tensor. A block is a residual addition whose branch
mixes tokens, followed directly by one whose branch processes each token alone. Names are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import view_sources
from bpudeploy.restructure.graph import Graph, Node


class BranchKind(Enum):
    """How a branch processes tokens."""

    ATTENTION = "attention"  # products of two tensors
    MIXING = "token mixing"  # pools, larger kernels, or channels and tokens transposed
    POINTWISE = "pointwise"  # each token alone


@dataclass(frozen=True)
class Residual:
    """``add`` = ``skip`` + ``branch``; ``nodes`` are the nodes of the branch, from ``skip`` on."""

    add: str
    skip: str
    branch: str
    nodes: frozenset[str]
    kind: BranchKind


@dataclass(frozen=True)
class Block:
    """One block; ``index`` is its number in the original, from 0."""

    index: int
    mixer: Residual
    mlp: Residual

    @property
    def input(self) -> str:
        """The residual stream before the block."""
        return self.mixer.skip

    @property
    def output(self) -> str:
        """The residual stream after the block."""
        return self.mlp.add


def find_blocks(graph: Graph, absent: Collection[int] = ()) -> dict[int, Block]:
    """Return the blocks by number, in order; ``absent`` are the numbers that earlier steps removed.

    Raises:
        StageError: there are no blocks; the message says what was found.
    """
    residuals = _residuals(graph)
    inside = frozenset[str]().union(*(r.nodes for r in residuals))
    stream = [r for r in residuals if r.add not in inside]
    pairs: list[tuple[Residual, Residual]] = []
    for mixer, mlp in pairwise(stream):
        joined = mixer.add in view_sources(graph, mlp.skip)
        pointwise = mlp.kind is BranchKind.POINTWISE or (
            mlp.kind is BranchKind.MIXING and mixer.kind is BranchKind.ATTENTION
        )
        if joined and mixer.kind is not BranchKind.POINTWISE and pointwise:
            pairs.append((mixer, mlp))
    if not pairs:
        operators = Counter(node.op for node in graph.nodes.values())
        kinds = Counter(r.kind.value for r in stream)
        raise StageError(
            f"the graph has no transformer blocks: {len(stream)} residual additions"
            f"{''.join(f', {n} of {kind}' for kind, n in kinds.items())}; operators: "
            f"{', '.join(f'{n} {op}' for op, n in operators.most_common(6))}",
            hint="remove the block options of restructure.approximate; they are for transformers",
        )
    numbers = (i for i in range(len(pairs) + len(absent)) if i not in absent)
    return {i: Block(i, mixer, mlp) for i, (mixer, mlp) in zip(numbers, pairs, strict=True)}


def select_blocks(blocks: Mapping[int, Block], wanted: Iterable[int], option: str) -> list[Block]:
    """Return the blocks with the numbers ``wanted``.

    Raises:
        StageError: one does not exist.
    """
    wanted = list(wanted)
    for index in wanted:
        if index not in blocks:
            raise StageError(
                f"{option} names block {index}, and the graph has {_spans(list(blocks))}",
                hint="block numbers start at 0; choose one of those",
            )
    return [blocks[index] for index in wanted]


def reader_outside(graph: Graph, tensor: str, by: Collection[str]) -> Node | None:
    """Return a node outside ``by`` that reads ``tensor``, or its producer if it is an output; else None."""
    if tensor in graph.output_names:
        return graph.nodes[tensor]
    return next((n for n in graph.nodes.values() if tensor in n.inputs and n.name not in by), None)


def _residuals(graph: Graph) -> list[Residual]:
    found = []
    for node in graph.nodes.values():
        if node.op != "Add" or any(name not in graph.nodes for name in node.inputs):
            continue
        for skip, branch in (node.inputs, node.inputs[::-1]):
            inside = (
                nodes_between(graph, branch, view_sources(graph, skip)) if graph.shape(skip) == node.shape else None
            )
            if inside:
                found.append(Residual(node.name, skip, branch, inside, _kind(graph, inside)))
                break
    return found


def nodes_between(graph: Graph, tensor: str, stops: Collection[str]) -> frozenset[str] | None:
    """Return the nodes on all paths from ``stops`` to ``tensor``; None if a path starts elsewhere."""
    nodes: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in nodes or name in stops or name in graph.constants or not name:
            continue
        if name not in graph.nodes:
            return None
        nodes.add(name)
        waiting += graph.nodes[name].inputs
    return frozenset(nodes)


def _kind(graph: Graph, names: Collection[str]) -> BranchKind:
    nodes = [graph.nodes[name] for name in names]
    if any(n.op == "Softmax" or (n.op == "MatMul" and n.inputs[1] not in graph.constants) for n in nodes):
        return BranchKind.ATTENTION
    mixing = ("Transpose", "AveragePool", "MaxPool", "GlobalAveragePool", "ReduceMean", "MatMul")
    if any(n.op in mixing or (n.op == "Conv" and max(graph.shape(n.inputs[1])[2:]) > 1) for n in nodes):
        return BranchKind.MIXING
    return BranchKind.POINTWISE


def _spans(numbers: list[int]) -> str:
    """Return ``blocks 0 to 3 and 6`` for [0, 1, 2, 3, 6]."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and spans[-1][-1] == n - 1:
            spans[-1].append(n)
        else:
            spans.append([n])
    texts = [f"{s[0]} to {s[-1]}" if len(s) > 1 else str(s[0]) for s in spans]
    return "blocks " + (", ".join(texts[:-1]) + " and " if texts[1:] else "") + texts[-1]
