"""parallel_blocks: run two consecutive blocks in parallel, after "Three things everyone should know about ViTs".

    before:  x₁ = x + A_i(x),  x₂ = x₁ + M_i(x₁),  x₃ = x₂ + A_j(x₂),  y = x₃ + M_j(x₃)
    after:   x' = x + A_i(x) + A_j(x),             y = x' + M_i(x') + M_j(x')

(Touvron et al., arXiv 2203.09795, section 3, where the network is trained in this form.) Norms that become equal are
merged, and so are the two branches if they have the same structure (``stack``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bpudeploy.approximate.blocks import Block, BranchKind, find_blocks, reader_outside, select_blocks
from bpudeploy.approximate.stack import CannotStack, stack
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import emit, tidy
from bpudeploy.restructure.graph import Graph, Node


def parallel_blocks(graph: Graph, pairs: Sequence[tuple[int, int]], absent: Collection[int] = ()) -> str:
    """Run each pair of blocks in parallel; return a summary.

    Raises:
        StageError: a block does not exist, or the stream between two blocks changes its shape or has other readers.
    """
    blocks = find_blocks(graph, absent)
    sums: list[tuple[str, str]] = []
    for pair in pairs:
        first, second = select_blocks(blocks, pair, "parallel_blocks")
        text = f"blocks {first.index} and {second.index}"
        sums += [(f"{text}, {part}", name) for part, name in _rewire(graph, first, second)]
    tidy(graph)
    separate = []
    for text, name in sums:
        try:
            graph.replace_uses(name, stack(graph, *graph.nodes[name].inputs))
        except CannotStack as error:
            separate.append(f"{text}, not merged: {error}")
        tidy(graph)
    merged = f"{len(sums) - len(separate)} of {len(sums)} branch pairs merged into one"
    return "; ".join([f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of blocks in parallel, {merged}", *separate])


def _rewire(graph: Graph, first: Block, second: Block) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return ("attention", A_i + A_j) and ("MLP", M_i + M_j): the names of the two sums."""
    _check(graph, first, second)
    x0, x1, x2, x3 = first.input, first.mixer.add, first.output, second.mixer.add
    a_i, a_j, m_i, m_j = (r.branch for r in (first.mixer, second.mixer, first.mlp, second.mlp))
    for name in second.mixer.nodes:
        graph.nodes[name].inputs = [x0 if n == x2 else n for n in graph.nodes[name].inputs]
    cut = graph.nodes[second.input] if second.input != x2 else None
    if cut is not None:  # the last block computes fewer tokens: so must the block in parallel
        cut.inputs[0] = x0
        a_i = graph.add(Node("Slice", graph.unique_name(f"{a_i}.part"), [a_i, *cut.inputs[1:]], cut.shape))
        for name in first.mlp.nodes:
            node = graph.nodes[name]
            node.shape = (*node.shape[:3], cut.shape[3])
    for name in first.mlp.nodes:
        graph.nodes[name].inputs = [x3 if n == x1 else n for n in graph.nodes[name].inputs]
    shape = graph.shape(x3)
    attention = emit(graph, "Add", f"{x3}.both", [a_i, a_j], shape)
    mlp = emit(graph, "Add", f"{second.output}.both", [m_i, m_j], shape)
    graph.nodes[x3].inputs = [x0 if cut is None else cut.name, attention]
    graph.nodes[second.output].inputs = [x3, mlp]
    del graph.nodes[x1], graph.nodes[x2]
    return ("attention", attention), ("MLP", mlp)


def _check(graph: Graph, first: Block, second: Block) -> None:
    pair = f"parallel_blocks [{first.index}, {second.index}]"
    stream, cut = second.input, graph.nodes[second.input]
    narrowed = cut.op == "Slice" and cut.inputs[0] == first.output and first.mlp.kind is BranchKind.POINTWISE
    narrowed = narrowed and cut.shape[:3] == graph.shape(first.input)[:3]
    direct = stream == first.output and graph.shape(stream) == graph.shape(first.input)
    if not (direct or narrowed) or first.mlp.skip != first.mixer.add or second.mlp.skip != second.mixer.add:
        raise StageError(
            f"{pair}: the stream changes its layout or shape between the two",
            hint="choose two blocks of one stage of a plain transformer",
        )
    inner = {first.output: {second.mixer.add, stream, *second.mixer.nodes}}
    inner[first.mixer.add] = {first.mlp.add, *first.mlp.nodes}
    for tensor, readers in inner.items():
        if reader_outside(graph, tensor, readers) is not None:
            raise StageError(f"{pair}: the stream between them has other readers", hint="choose other blocks")
