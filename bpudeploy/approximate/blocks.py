"""Transformer blocks found by structure alone: residual additions, in pairs of token mixing and MLP.

A residual addition is x' = x + f(x) where f depends on x and on nothing else of the image. A block is one whose
branch mixes tokens, followed at once by one whose branch works on each token alone. No name is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from bpudeploy.approximate.read import origins
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph, Node


class Branch(Enum):
    """What a branch does to tokens."""

    ATTENTION = "attention"  # multiplies tensors by tensors
    MIXING = "token mixing"  # pools, larger kernels, or channels and tokens exchanged
    POINTWISE = "pointwise"  # each token alone


@dataclass(frozen=True)
class Residual:
    """``add`` = ``skip`` + ``branch``; ``nodes`` are all that the branch is made of, back to ``skip``."""

    add: str
    skip: str
    branch: str
    nodes: frozenset[str]
    kind: Branch


@dataclass(frozen=True)
class Block:
    """One block of the original, with its number there, from 0."""

    index: int
    mixer: Residual
    mlp: Residual

    @property
    def given(self) -> str:
        """The residual stream before it."""
        return self.mixer.skip

    @property
    def made(self) -> str:
        """The residual stream after it."""
        return self.mlp.add


def find_blocks(graph: Graph, absent: Collection[int] = ()) -> dict[int, Block]:
    """Return number to block, in the network's order; ``absent`` are numbers that earlier steps took away.

    Raises:
        StageError: there is no block; it says what was found.
    """
    residuals = _residuals(graph)
    inside = frozenset[str]().union(*(r.nodes for r in residuals))
    stream = [r for r in residuals if r.add not in inside]
    pairs: list[tuple[Residual, Residual]] = []
    for mixer, mlp in pairwise(stream):
        joined = mixer.add in origins(graph, mlp.skip)
        pointwise = mlp.kind is Branch.POINTWISE or (mlp.kind is Branch.MIXING and mixer.kind is Branch.ATTENTION)
        if joined and mixer.kind is not Branch.POINTWISE and pointwise:
            pairs.append((mixer, mlp))
    if not pairs:
        operators = Counter(node.op for node in graph.nodes.values())
        kinds = Counter(r.kind.value for r in stream)
        raise StageError(
            f"the graph has no transformer blocks: {len(stream)} residual additions"
            f"{''.join(f', {n} of {kind}' for kind, n in kinds.items())}; operators: "
            f"{', '.join(f'{n} {op}' for op, n in operators.most_common(6))}",
            hint="remove restructure.approximate's options on blocks; they are for transformers",
        )
    numbers = (i for i in range(len(pairs) + len(absent)) if i not in absent)
    return {i: Block(i, mixer, mlp) for i, (mixer, mlp) in zip(numbers, pairs, strict=True)}


def choose(blocks: Mapping[int, Block], wanted: Iterable[int], option: str) -> list[Block]:
    """Return the blocks of these numbers.

    Raises:
        StageError: one does not exist.
    """
    wanted = list(wanted)
    for index in wanted:
        if index not in blocks:
            raise StageError(
                f"{option} names block {index}, and the graph has {_spans(list(blocks))}",
                hint="blocks are counted from 0; name one of those",
            )
    return [blocks[index] for index in wanted]


def read_elsewhere(graph: Graph, tensor: str, by: Collection[str]) -> Node | None:
    """Return a node outside ``by`` that reads ``tensor``, or None; an output of the network counts as its maker."""
    if tensor in graph.output_names:
        return graph.nodes[tensor]
    return next((n for n in graph.nodes.values() if tensor in n.inputs and n.name not in by), None)


def _residuals(graph: Graph) -> list[Residual]:
    found = []
    for node in graph.nodes.values():
        if node.op != "Add" or any(name not in graph.nodes for name in node.inputs):
            continue
        for skip, branch in (node.inputs, node.inputs[::-1]):
            cone = cone_of(graph, branch, origins(graph, skip)) if graph.shape(skip) == node.shape else None
            if cone:
                found.append(Residual(node.name, skip, branch, cone, _kind(graph, cone)))
                break
    return found


def cone_of(graph: Graph, tensor: str, stops: Collection[str]) -> frozenset[str] | None:
    """Return all nodes between ``stops`` and ``tensor``; None when a path does not come from there."""
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


def _kind(graph: Graph, cone: Collection[str]) -> Branch:
    nodes = [graph.nodes[name] for name in cone]
    if any(n.op == "Softmax" or (n.op == "MatMul" and n.inputs[1] not in graph.constants) for n in nodes):
        return Branch.ATTENTION
    mixing = ("Transpose", "AveragePool", "MaxPool", "GlobalAveragePool", "ReduceMean", "MatMul")
    if any(n.op in mixing or (n.op == "Conv" and max(graph.shape(n.inputs[1])[2:]) > 1) for n in nodes):
        return Branch.MIXING
    return Branch.POINTWISE


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
