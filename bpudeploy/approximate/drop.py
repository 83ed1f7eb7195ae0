"""drop_blocks: a block's two residual branches are removed, so its input goes on as its output.

y = x, in place of y = x' + MLP(x'), x' = x + Attention(x). Layer dropping without retraining, as in Fan et al.,
"Reducing Transformer Depth on Demand with Structured Dropout" (ICLR 2020), but for a network not trained for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bpudeploy.approximate.blocks import choose, find_blocks
from bpudeploy.approximate.read import tidy
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph


def drop_blocks(graph: Graph, dropped: Sequence[int], absent: Collection[int] = ()) -> str:
    """Remove the blocks of these numbers; return what was done in words.

    Raises:
        StageError: a number that is no block, or nothing would be left.
    """
    blocks = find_blocks(graph, absent)
    chosen = choose(blocks, dropped, "drop_blocks")
    if len(chosen) == len(blocks):
        raise StageError(f"drop_blocks names all {len(blocks)} blocks", hint="keep one at least")
    for block in chosen:
        for residual in (block.mlp, block.mixer):
            # the skip of a later residual may be this one's sum: read it anew
            node = graph.nodes[residual.add]
            skip = next(name for name in node.inputs if name != residual.branch)
            if residual.add in graph.output_names:
                raise StageError(f"block {block.index} gives an output of the network", hint="keep that block")
            graph.rename_reads(residual.add, skip)
            del graph.nodes[residual.add]
    tidy(graph)
    return f"blocks {', '.join(map(str, dropped))} of {len(blocks)} removed"
