"""drop_blocks: remove both residual branches of a block, so that its output is its input.

y = x replaces y = x' + MLP(x'), x' = x + Attention(x). Layer dropping as in Fan et al., "Reducing Transformer Depth
on Demand with Structured Dropout" (ICLR 2020), but of a network that was not trained for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bpudeploy.approximate.blocks import find_blocks, select_blocks
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import tidy
from bpudeploy.restructure.graph import Graph


def drop_blocks(graph: Graph, blocks: Sequence[int], absent: Collection[int] = ()) -> str:
    """Remove the blocks with these numbers; return a summary.

    Raises:
        StageError: a block does not exist, or none would remain.
    """
    found = find_blocks(graph, absent)
    chosen = select_blocks(found, blocks, "drop_blocks")
    if len(chosen) == len(found):
        raise StageError(f"drop_blocks names all {len(found)} blocks", hint="keep at least one")
    for block in chosen:
        for residual in (block.mlp, block.mixer):
            # the skip may have been the output of a removed residual: read it from the node
            node = graph.nodes[residual.add]
            skip = next(name for name in node.inputs if name != residual.branch)
            if residual.add in graph.output_names:
                raise StageError(
                    f"the output of block {block.index} is an output of the network", hint="keep that block"
                )
            graph.replace_uses(residual.add, skip)
            del graph.nodes[residual.add]
    tidy(graph)
    return f"blocks {', '.join(map(str, blocks))} of {len(found)} removed"
