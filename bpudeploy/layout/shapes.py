"""Move values through the shape that an accelerator pads least.

The exact rewrite cuts channels into heads by a Reshape to (h, d, T, 1) and a Transpose, and joins them the same way
back. An accelerator with channels last carries a Reshape out on a copy whose last axis is padded, here from 1 to 128.
Where a chain of Reshapes and Transposes is one Reshape and one Transpose, in any order, through a shape with less
padding, it is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations

import numpy as np

from bpudeploy.layout.moves import Indices, ends, indices, numbered
from bpudeploy.restructure.edit import reshape, tidy, transpose
from bpudeploy.restructure.graph import Graph, Node

_WORTH = 2
"""A chain is rewritten if it then moves that much less: what is close is as fast."""
_Move = tuple[str, tuple[int, ...]]
"""An operator with its shape, of a Reshape, or its order of axes, of a Transpose."""


def move_through_shapes(graph: Graph, columns: int) -> int:
    """Rewrite every chain of moves that another shape makes cheaper; return how many.

    Args:
        columns: the last axis of what a Reshape reads and writes is padded to a multiple of this.
    """
    count = 0
    for name, source in ends(graph):
        chain = _chain(graph, name, source)
        if len({node.op for node in chain}) < 2:  # a Reshape alone may be part of a convolution's weights
            continue
        before, after = numbered(graph.shape(source)), indices(graph, name, source)
        given = [(node.op, node.shape if node.op == "Reshape" else node.attributes["perm"]) for node in chain]
        cost = partial(_padded, before.shape, columns=columns)
        best = min(_ways(before, after), key=cost, default=None)
        if best is not None and _WORTH * cost(best) <= cost(given):
            graph.replace_uses(name, _emit(graph, source, best, name))
            count += 1
    if count:
        tidy(graph)
    return count


def _chain(graph: Graph, name: str, source: str) -> list[Node]:
    """Return the Reshapes and Transposes between two tensors; none where there are other moves too."""
    chain: list[Node] = []
    while name != source:
        node = graph.nodes[name]
        if node.op not in ("Reshape", "Transpose"):
            return []
        chain.insert(0, node)
        name = node.inputs[0]
    return chain


def _ways(before: Indices, after: Indices) -> Iterator[list[_Move]]:
    """Yield every Reshape and Transpose, in both orders, that makes ``after`` of ``before``."""
    for perm in permutations(range(after.ndim)):
        shape = tuple(after.shape[perm.index(axis)] for axis in range(after.ndim))
        if np.array_equal(before.reshape(shape).transpose(perm), after):
            yield [("Reshape", shape), ("Transpose", perm)]
        if np.array_equal(before.transpose(perm).reshape(after.shape), after):
            yield [("Transpose", perm), ("Reshape", after.shape)]


def _padded(shape: tuple[int, ...], moves: Sequence[_Move], columns: int) -> int:
    """Return how many values the Reshapes move, with the padding of W: a Reshape moves (N, C, H, W) with W last."""
    total = 0
    for op, given in moves:
        made = given if op == "Reshape" else tuple(shape[axis] for axis in given)
        if op == "Reshape" and made != shape:
            total += max(int(np.prod(one[:3])) * -(-one[3] // columns) * columns for one in (shape, made))
        shape = made
    return total


def _emit(graph: Graph, tensor: str, moves: Sequence[_Move], base: str) -> str:
    for op, given in moves:
        if op == "Reshape" and given != graph.shape(tensor):
            tensor = reshape(graph, tensor, given, f"{base}.shape")
        if op == "Transpose" and given != tuple(range(len(given))):
            tensor = transpose(graph, tensor, given, f"{base}.turned")
    return tensor
