"""Propagate a smaller grid of tokens: shrink every axis of tokens, or of rows or columns of patches.

A tensor has one axis of tokens (1, C, 1, N), two (attention, N x N), or separate rows and columns (1, C, H, W). A
reshape may merge rows and columns into tokens, or split them, if there are no prefix or suffix tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np

from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import ELEMENTWISE, shape_constant, store
from bpudeploy.restructure.graph import Graph, Node


@dataclass(frozen=True)
class Grid:
    """``prefix`` tokens, then ``height`` · ``width`` patches row by row, then ``suffix`` tokens."""

    prefix: int
    height: int
    width: int
    suffix: int

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return self.prefix + self.height * self.width + self.suffix


class AxisKind(Enum):
    """What the entries of an axis are."""

    TOKENS = "tokens"
    ROWS = "rows"
    COLUMNS = "columns"


Axes = Mapping[int, AxisKind]


def shrink(graph: Graph, start: str, before: Sequence[int], nodes: Sequence[Node], grid: Grid, smaller: Grid) -> None:
    """Shrink everything computed from ``start``, whose shape was ``before``, from ``grid`` to ``smaller``.

    Args:
        nodes: the nodes that may depend on ``start``, in topological order.

    Raises:
        StageError: a node depends on the number of tokens.
    """
    shrinker = _Shrinker(graph, grid, smaller)
    shrinker.axes[start] = {2: AxisKind.ROWS, 3: AxisKind.COLUMNS} if before[2] > 1 else {3: AxisKind.TOKENS}
    shrinker.old[start] = tuple(before)
    for node in nodes:
        if any(name in shrinker.axes for name in node.inputs):
            shrinker.visit(node)


class _Shrinker:
    """``axes``: the token axes of each tensor; ``old``: its shape before. Shapes in nodes are updated."""

    def __init__(self, graph: Graph, grid: Grid, smaller: Grid) -> None:
        self.graph, self.grid, self.smaller = graph, grid, smaller
        self.axes: dict[str, Axes] = {}
        self.old: dict[str, tuple[int, ...]] = {}
        self._fewer = {
            AxisKind.TOKENS: grid.tokens - smaller.tokens,
            AxisKind.ROWS: grid.height - smaller.height,
            AxisKind.COLUMNS: grid.width - smaller.width,
        }

    def visit(self, node: Node) -> None:
        """Shrink one node."""
        axes = self._after(node)
        self.old[node.name] = node.shape
        if axes:
            self.axes[node.name] = axes
            node.shape = tuple(n - self._fewer[axes[i]] if i in axes else n for i, n in enumerate(node.shape))
            if node.op == "Reshape":
                node.inputs[1] = shape_constant(self.graph, node.shape)

    def _after(self, node: Node) -> Axes:
        axes = self.axes.get(node.inputs[0], {})
        if node.op in ELEMENTWISE:
            return self._elementwise(node)
        if node.op == "Softmax":
            return axes
        if node.op == "Conv":
            kernel = self.graph.shape(node.inputs[1])[2:]
            if 1 in axes or max(kernel) > 1 or list(node.attributes.get("strides", [1, 1])) != [1, 1]:
                raise self._unsupported(node, "its weights mix tokens")
            return axes
        if node.op == "Transpose":
            return {i: axes[p] for i, p in enumerate(node.attributes["perm"]) if p in axes}
        if node.op == "Reshape":
            return self._reshaped(node)
        if node.op == "MatMul":
            return self._product(node)
        if node.op == "Slice":
            return self._slice(node)
        if node.op in ("GlobalAveragePool", "ReduceMean"):
            reduced = node.attributes.get("axes", [2, 3])
            return {i: kind for i, kind in axes.items() if i not in reduced}
        raise self._unsupported(node, "this operator is not supported")

    def _elementwise(self, node: Node) -> Axes:
        axes: dict[int, AxisKind] = {}
        for name in node.inputs:
            axes |= self.axes.get(name, {})
        for name in node.inputs:
            if not name or self.axes.get(name) == axes:
                continue
            shape = (1,) * (4 - len(self.graph.shape(name))) + self.graph.shape(name)
            if any(shape[a] > 1 and self.axes.get(name, {}).get(a) is not axes[a] for a in axes):
                raise self._unsupported(node, f"{name} has an entry per token (a relative position bias?)")
        return axes

    def _reshaped(self, node: Node) -> Axes:
        source = node.inputs[0]
        left, before, found = dict(self.axes[source]), self.old[source], dict[int, AxisKind]()
        patches_only = not (self.grid.prefix or self.grid.suffix)
        for axis in sorted(left):
            if axis not in left:
                continue
            outer = prod(before[:axis])
            new = _axis_at(node.shape, outer, before[axis])
            if new is not None:
                found[new] = left.pop(axis)
            elif left[axis] is AxisKind.TOKENS and patches_only:
                row, column = (_axis_at(node.shape, outer * n, size) for n, size in _parts(self.grid))
                if row is None or column is None:
                    raise self._unsupported(node, "it mixes tokens with another axis (windows?)")
                found |= {row: AxisKind.ROWS, column: AxisKind.COLUMNS}
                del left[axis]
            else:
                column = next((i for i in left if left[axis] is AxisKind.ROWS and left[i] is AxisKind.COLUMNS), None)
                joined = _axis_at(node.shape, outer, self.grid.tokens)
                if column is None or joined is None or prod(before[axis + 1 : column]) != 1 or not patches_only:
                    raise self._unsupported(node, "it mixes tokens with another axis (windows?)")
                found[joined] = AxisKind.TOKENS
                del left[axis], left[column]
        return found

    def _product(self, node: Node) -> Axes:
        left, right = (self.axes.get(name, {}) for name in node.inputs)
        if left.get(3) is not right.get(2) or (left.keys() | right.keys()) & {0, 1}:
            raise self._unsupported(node, "only one of its inputs has fewer tokens")
        axes = {2: left[2]} if 2 in left else {}
        return axes | ({3: right[3]} if 3 in right else {})

    def _slice(self, node: Node) -> Axes:
        axes = self.axes[node.inputs[0]]
        start, stop, axis = (int(self.graph.constants[name][0]) for name in node.inputs[1:4])
        if axis not in axes:
            return axes
        whole = self.old[node.inputs[0]][axis]
        if axes[axis] is not AxisKind.TOKENS or whole != self.grid.tokens or start < 0:
            raise self._unsupported(node, "it slices among the tokens")
        if stop <= self.grid.prefix:
            return {i: kind for i, kind in axes.items() if i != axis}
        if start <= self.grid.prefix and stop >= whole - self.grid.suffix:
            shorter = np.array([min(stop, whole) - self._fewer[AxisKind.TOKENS]], np.int64)
            node.inputs[2] = store(self.graph, shorter, f"{node.name}.bound")
            return axes
        raise self._unsupported(node, "it slices among the patch tokens")

    def _unsupported(self, node: Node, why: str) -> StageError:
        return StageError(
            f"reduce_tokens: {node.op} ({node.name}) depends on the number of tokens: {why}",
            hint="remove restructure.approximate.reduce_tokens, or pool after a later block",
        )


def _axis_at(shape: Sequence[int], outer: int, size: int) -> int | None:
    """Return the axis of ``size`` preceded by ``outer`` elements, or None."""
    return next((i for i in range(4) if shape[i] == size and prod(shape[:i]) == outer), None)


def _parts(grid: Grid) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (elements before it among the tokens, size) of rows and of columns."""
    return (1, grid.height), (grid.height, grid.width)
