"""reduce_tokens: average-pool the patch tokens on their grid after one block, and shrink everything after it.

    [prefix | patches (H·W)]  ->  [prefix | AveragePool_f×f(patches as H×W)]

Class and register tokens are kept. As in ToMe (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023), a pooled
token is the mean of the tokens it merges, but always of f² neighbours, not chosen by content: a BPU runs one static
network. An axis of tokens loses H·W·(1 - 1/f²) entries; constants with an entry per token are not supported.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from bpudeploy.approximate.blocks import find_blocks, select_blocks
from bpudeploy.approximate.shrink import Grid, shrink
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import ELEMENTWISE, emit, reshape, slice_axis, tidy
from bpudeploy.restructure.graph import Graph


def reduce_tokens(graph: Graph, after_block: int, factor: int, absent: Collection[int] = ()) -> str:
    """Pool the patch tokens after that block; return a summary.

    Raises:
        StageError: the grid cannot be determined, ``factor`` does not divide it, or a later node depends on the number
            of tokens.
    """
    blocks = find_blocks(graph, absent)
    (block,) = select_blocks(blocks, [after_block], "reduce_tokens.after_block")
    stream = block.output
    grid = _grid(graph, next(iter(blocks.values())).input, graph.shape(stream))
    if grid.height % factor or grid.width % factor:
        fits = [f for f in range(2, 17) if grid.height % f == 0 and grid.width % f == 0]
        raise StageError(
            f"reduce_tokens: {factor} does not divide the grid of {grid.height} x {grid.width} patches",
            hint=f"valid factors: {', '.join(map(str, fits)) or 'none'}",
        )
    readers = [node for node in graph.nodes.values() if stream in node.inputs]
    if not readers or stream in graph.output_names:
        raise StageError(f"nothing follows block {after_block}", hint="pool after an earlier block")
    smaller = Grid(grid.prefix, grid.height // factor, grid.width // factor, grid.suffix)
    following = [*graph.nodes.values()]
    pooled = _pool(graph, stream, grid, smaller, factor)
    for node in readers:
        node.inputs = [pooled if name == stream else name for name in node.inputs]
    shrink(graph, pooled, graph.shape(stream), following, grid, smaller)
    tidy(graph)
    return (
        f"{grid.height} x {grid.width} patch tokens become {smaller.height} x {smaller.width} after block "
        f"{after_block}; {grid.prefix + grid.suffix} other tokens kept"
    )


def _grid(graph: Graph, stream: str, shape: tuple[int, ...]) -> Grid:
    """Return the patch grid: the H x W pixels of the patch convolution, and the tokens concatenated with them.

    Between the convolution and ``stream``, the tokens before the first block, only nodes that keep the order of
    pixels are supported: reshapes, elementwise operators, Concat on axis 3. ``shape`` is that of the pooled stream.
    """
    tokens, image = prod(shape[2:]), shape[2] > 1
    if shape != graph.shape(stream):
        raise StageError(
            f"reduce_tokens: the stream is {list(graph.shape(stream))} before the first block, {list(shape)} here",
            hint="it supports only plain vision transformers, whose blocks all have the same tokens",
        )
    name, prefix, suffix = stream, 0, 0
    while (node := graph.nodes.get(name)) is not None and not (image and node.shape != shape):
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
        elif node.op in ELEMENTWISE | {"Reshape"} or (node.op == "Conv" and int(node.attributes.get("group", 1)) == 1):
            ends = [n for n in node.inputs if n not in graph.constants and prod(graph.shape(n)[2:]) == height * width]
            name = ends[0] if ends else ""
        else:
            break
    raise StageError(
        f"reduce_tokens: no patch convolution computes the {tokens} tokens (stopped at {name or 'a constant'})",
        hint="it supports only plain vision transformers, whose patches keep their order",
    )


def _pool(graph: Graph, stream: str, grid: Grid, smaller: Grid, factor: int) -> str:
    batch, channels, _, _ = graph.shape(stream)
    patches = grid.height * grid.width

    def part(start: int, stop: int, what: str) -> str:
        return slice_axis(graph, stream, 3, start, stop, f"{stream}.{what}")

    sides: dict[str, object] = {"kernel_shape": [factor, factor], "strides": [factor, factor], "pads": [0, 0, 0, 0]}
    shape = (batch, channels, smaller.height, smaller.width)
    if graph.shape(stream)[2] > 1:
        return emit(graph, "AveragePool", f"{stream}.pool", [stream], shape, **sides)
    whole = not (grid.prefix or grid.suffix)
    tokens = stream if whole else part(grid.prefix, grid.prefix + patches, "patches")
    image = reshape(graph, tokens, (batch, channels, grid.height, grid.width), f"{stream}.grid")
    pool = emit(graph, "AveragePool", f"{stream}.pool", [image], shape, **sides)
    row = reshape(graph, pool, (batch, channels, 1, smaller.height * smaller.width), f"{stream}.pooled")
    if whole:
        return row
    parts = [part(0, grid.prefix, "prefix")] if grid.prefix else []
    parts += [row] + ([part(grid.tokens - grid.suffix, grid.tokens, "suffix")] if grid.suffix else [])
    return emit(graph, "Concat", f"{stream}.fewer", parts, (batch, channels, 1, smaller.tokens), axis=3)
