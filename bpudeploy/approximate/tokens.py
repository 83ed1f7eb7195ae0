"""reduce_tokens: after one block the patch tokens are average-pooled on their grid; all that follows gets smaller.

    [prefix | patches (H·W)]  ->  [prefix | AveragePool_f×f(patches as H×W)]

Static, so one fixed graph; class and register tokens stay as they are. A pooled token is the mean of f² tokens, as a
token merged by ToMe is of those it merges (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023), but where
ToMe chooses by content, this always merges neighbours: a BPU runs one network for every image. A tensor's axis that
counts tokens loses H·W·(1 - 1/f²) of them; a constant with an entry for each token cannot follow, and is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import numpy as np

from bpudeploy.approximate.blocks import choose, find_blocks
from bpudeploy.approximate.read import BINARY, UNARY, emit, reshape, shape_constant, store, tidy
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph, Node

_EACH = UNARY | BINARY


@dataclass(frozen=True)
class Grid:
    """``prefix`` tokens, then ``height`` · ``width`` patches row by row, then ``suffix`` tokens."""

    prefix: int
    height: int
    width: int
    suffix: int

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.prefix + self.height * self.width + self.suffix


def reduce_tokens(graph: Graph, after_block: int, factor: int, absent: Collection[int] = ()) -> str:
    """Pool the patch tokens after that block; return what was done in words.

    Raises:
        StageError: the grid cannot be told, ``factor`` does not divide it, or something depends on the tokens' number.
    """
    blocks = find_blocks(graph, absent)
    (block,) = choose(blocks, [after_block], "reduce_tokens.after_block")
    stream = block.made
    grid = _grid(graph, next(iter(blocks.values())).given, graph.shape(stream))
    if grid.height % factor or grid.width % factor:
        fits = [f for f in range(2, 17) if grid.height % f == 0 and grid.width % f == 0]
        raise StageError(
            f"reduce_tokens: {factor} does not divide the grid of {grid.height} x {grid.width} patches",
            hint=f"factors that do: {', '.join(map(str, fits)) or 'none'}",
        )
    readers = [node for node in graph.nodes.values() if stream in node.inputs]
    if not readers or stream in graph.output_names:
        raise StageError(f"nothing follows block {after_block}", hint="pool after an earlier block")
    smaller = Grid(grid.prefix, grid.height // factor, grid.width // factor, grid.suffix)
    following = [*graph.nodes.values()]
    pooled = _pool(graph, stream, grid, smaller, factor)
    for node in readers:
        node.inputs = [pooled if name == stream else name for name in node.inputs]
    _Shrink(graph, grid, grid.tokens - smaller.tokens).run(pooled, following)
    tidy(graph)
    return (
        f"{grid.height} x {grid.width} patch tokens become {smaller.height} x {smaller.width} after block "
        f"{after_block}; {grid.prefix + grid.suffix} others stay"
    )


def _grid(graph: Graph, stream: str, shape: tuple[int, ...]) -> Grid:
    """Find the patches' grid: the convolution whose H x W pixels become the tokens, and what is joined to them.

    Only steps that keep the pixels' order may stand between that and ``stream``, the tokens before the first
    block: reshapes, elementwise operators, joins on axis 3. ``shape`` is the stream's where it is pooled.
    """
    _, _, rows, tokens = graph.shape(stream)
    if rows != 1 or shape != graph.shape(stream):
        raise StageError("reduce_tokens: the stream is no row of tokens", hint="it is for plain vision transformers")
    name, prefix, suffix = stream, 0, 0
    while (node := graph.nodes.get(name)) is not None:
        _, _, height, width = node.shape
        patches = tokens - prefix - suffix
        if node.op == "Conv" and max(graph.shape(node.inputs[1])[2:]) > 1:
            if height * width == patches and height > 1:
                return Grid(prefix, height, width, suffix)
            break
        if node.op == "Concat" and node.attributes["axis"] == 3:
            largest = max(
                (n for n in node.inputs if n not in graph.constants), key=lambda n: graph.shape(n)[3], default=""
            )
            at = node.inputs.index(largest) if largest else 0
            prefix += sum(graph.shape(n)[3] for n in node.inputs[:at])
            suffix = sum(graph.shape(n)[3] for n in node.inputs[at + 1 :]) + suffix
            name = largest
        elif node.op in _EACH | {"Reshape"} or (node.op == "Conv" and int(node.attributes.get("group", 1)) == 1):
            ends = [n for n in node.inputs if n not in graph.constants and prod(graph.shape(n)[2:]) == height * width]
            name = ends[0] if ends else ""
        else:
            break
    raise StageError(
        f"reduce_tokens: no patch convolution makes the {tokens} tokens (stopped at {name or 'a constant'})",
        hint="it is for plain vision transformers, whose patches keep their order",
    )


def _pool(graph: Graph, stream: str, grid: Grid, smaller: Grid, factor: int) -> str:
    batch, channels, _, _ = graph.shape(stream)
    patches = grid.height * grid.width

    def part(start: int, stop: int, what: str) -> str:
        bounds = [store(graph, np.array([n], np.int64), f"{stream}.{what}.bound") for n in (start, stop, 3, 1)]
        return emit(graph, "Slice", f"{stream}.{what}", [stream, *bounds], (batch, channels, 1, stop - start))

    whole = not (grid.prefix or grid.suffix)
    tokens = stream if whole else part(grid.prefix, grid.prefix + patches, "patches")
    image = reshape(graph, tokens, (batch, channels, grid.height, grid.width), f"{stream}.grid")
    shape = (batch, channels, smaller.height, smaller.width)
    sides: dict[str, object] = {"kernel_shape": [factor, factor], "strides": [factor, factor], "pads": [0, 0, 0, 0]}
    pool = emit(graph, "AveragePool", f"{stream}.pool", [image], shape, **sides)
    row = reshape(graph, pool, (batch, channels, 1, smaller.height * smaller.width), f"{stream}.pooled")
    if whole:
        return row
    parts = [part(0, grid.prefix, "prefix")] if grid.prefix else []
    parts += [row] + ([part(grid.tokens - grid.suffix, grid.tokens, "suffix")] if grid.suffix else [])
    return emit(graph, "Concat", f"{stream}.fewer", parts, (batch, channels, 1, smaller.tokens), axis=3)


class _Shrink:
    """Walks all that follows and takes ``fewer`` off every axis that counts tokens."""

    def __init__(self, graph: Graph, grid: Grid, fewer: int) -> None:
        self._graph, self._grid, self._fewer = graph, grid, fewer
        self._axes: dict[str, frozenset[int]] = {}
        """Tensor to its axes that count tokens; shapes of these are already the new ones."""
        self._old: dict[str, tuple[int, ...]] = {}

    def run(self, start: str, nodes: list[Node]) -> None:
        shape = self._graph.shape(start)
        self._axes[start] = frozenset({3})
        self._old[start] = (*shape[:3], shape[3] + self._fewer)
        for node in nodes:
            if any(name in self._axes for name in node.inputs):
                axes = self._after(node)
                self._old[node.name] = node.shape
                if axes:
                    self._axes[node.name] = axes
                    node.shape = tuple(n - self._fewer if i in axes else n for i, n in enumerate(node.shape))
                    if node.op == "Reshape":
                        node.inputs[1] = shape_constant(self._graph, node.shape)

    def _after(self, node: Node) -> frozenset[int]:
        axes = self._axes.get(node.inputs[0], frozenset())
        if node.op in _EACH:
            return self._each(node)
        if node.op == "Softmax":
            return axes
        if node.op == "Conv":
            kernel = self._graph.shape(node.inputs[1])[2:]
            if 1 in axes or max(kernel) > 1 or list(node.attributes.get("strides", [1, 1])) != [1, 1]:
                raise self._refuse(node, "its weights are for that many tokens, or mix neighbours")
            return axes
        if node.op == "Transpose":
            return frozenset(i for i, p in enumerate(node.attributes["perm"]) if p in axes)
        if node.op == "Reshape":
            return self._reshaped(node)
        if node.op == "MatMul":
            return self._product(node)
        if node.op == "Slice":
            return self._slice(node)
        if node.op in ("GlobalAveragePool", "ReduceMean"):
            gone = node.attributes.get("axes", [2, 3])
            return axes - frozenset(gone)
        raise self._refuse(node, "it is not followed")

    def _each(self, node: Node) -> frozenset[int]:
        axes = frozenset[int]().union(*(self._axes.get(name, frozenset()) for name in node.inputs))
        for name in node.inputs:
            if not name or self._axes.get(name) == axes:
                continue
            shape = (1,) * (4 - len(self._graph.shape(name))) + self._graph.shape(name)
            if any(shape[a] > 1 and a not in self._axes.get(name, ()) for a in axes):
                raise self._refuse(node, f"{name} has an entry for each token (a relative position?)")
        return axes

    def _reshaped(self, node: Node) -> frozenset[int]:
        before, found = self._old[node.inputs[0]], set()
        for axis in self._axes[node.inputs[0]]:
            outer = prod(before[:axis])
            new = [i for i in range(4) if node.shape[i] == before[axis] and prod(node.shape[:i]) == outer]
            if not new:
                raise self._refuse(node, "it mixes tokens with something else (windows?)")
            found.add(new[0])
        return frozenset(found)

    def _product(self, node: Node) -> frozenset[int]:
        left, right = (self._axes.get(name, frozenset()) for name in node.inputs)
        if (3 in left) != (2 in right) or (left | right) & {0, 1}:
            raise self._refuse(node, "only one side of it has fewer tokens")
        return frozenset({2} & left) | frozenset({3} & right)

    def _slice(self, node: Node) -> frozenset[int]:
        axes = self._axes[node.inputs[0]]
        start, stop, axis = (int(self._graph.constants[name][0]) for name in node.inputs[1:4])
        if axis not in axes:
            return axes
        whole = self._old[node.inputs[0]][axis]
        if whole != self._grid.tokens or start < 0:
            raise self._refuse(node, "it cuts among the tokens")
        if stop <= self._grid.prefix:
            return axes - {axis}
        if start <= self._grid.prefix and stop >= whole - self._grid.suffix:
            shorter = np.array([min(stop, whole) - self._fewer], np.int64)
            node.inputs[2] = store(self._graph, shorter, f"{node.name}.bound")
            return axes
        raise self._refuse(node, "it cuts among the patch tokens")

    def _refuse(self, node: Node, why: str) -> StageError:
        return StageError(
            f"reduce_tokens: {node.op} ({node.name}) depends on the number of tokens: {why}",
            hint="pool before the part where that begins, or remove restructure.approximate.reduce_tokens",
        )
