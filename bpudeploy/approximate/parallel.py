"""parallel_blocks: two neighbouring blocks side by side, after "Three things everyone should know about ViTs".

    before:  x₁ = x + A_i(x),  x₂ = x₁ + M_i(x₁),  x₃ = x₂ + A_j(x₂),  y = x₃ + M_j(x₃)
    after:   x' = x + A_i(x) + A_j(x),             y = x' + M_i(x') + M_j(x')

(Touvron et al., arXiv 2203.09795, section 3; there the network is trained so, here it is not.) Norms that have become
equal are one, and the two branches become one where they have the same structure (``stack``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bpudeploy.approximate.blocks import Block, Branch, choose, find_blocks, read_elsewhere
from bpudeploy.approximate.read import emit, fresh, tidy
from bpudeploy.approximate.stack import CannotStack, stack
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph, Node


def parallel_blocks(graph: Graph, pairs: Sequence[tuple[int, int]], absent: Collection[int] = ()) -> str:
    """Put each pair side by side; return what was done in words.

    Raises:
        StageError: a block does not exist, or the stream between two is not one tensor that only they read.
    """
    blocks = find_blocks(graph, absent)
    sums: list[tuple[str, str]] = []
    for pair in pairs:
        first, second = choose(blocks, pair, "parallel_blocks")
        text = f"blocks {first.index} and {second.index}"
        sums += [(f"{text}, {part}", name) for part, name in _rewire(graph, first, second)]
    tidy(graph)
    apart = []
    for text, name in sums:
        try:
            graph.rename_reads(name, stack(graph, *graph.nodes[name].inputs))
        except CannotStack as error:
            apart.append(f"{text}, stay two branches: {error}")
        tidy(graph)
    merged = f"{len(sums) - len(apart)} of {len(sums)} branch pairs merged into one"
    return "; ".join([f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of blocks side by side, {merged}", *apart])


def _rewire(graph: Graph, first: Block, second: Block) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return ("attention", A_i + A_j) and ("MLP", M_i + M_j): the names of the two sums."""
    _check(graph, first, second)
    x0, x1, x2, x3 = first.given, first.mixer.add, first.made, second.mixer.add
    a_i, a_j, m_i, m_j = (r.branch for r in (first.mixer, second.mixer, first.mlp, second.mlp))
    for name in second.mixer.nodes:
        graph.nodes[name].inputs = [x0 if n == x2 else n for n in graph.nodes[name].inputs]
    cut = graph.nodes[second.given] if second.given != x2 else None
    if cut is not None:  # the last block computes fewer tokens: so does what goes along with it
        cut.inputs[0] = x0
        a_i = graph.add(Node("Slice", fresh(graph, f"{a_i}.part"), [a_i, *cut.inputs[1:]], cut.shape))
        for name in first.mlp.nodes:
            node = graph.nodes[name]
            node.shape = (*node.shape[:3], cut.shape[3])
    for name in first.mlp.nodes:
        graph.nodes[name].inputs = [x3 if n == x1 else n for n in graph.nodes[name].inputs]
    shape = graph.shape(x3)
    attention = emit(graph, "Add", f"{x3}.both", [a_i, a_j], shape)
    mlp = emit(graph, "Add", f"{second.made}.both", [m_i, m_j], shape)
    graph.nodes[x3].inputs = [x0 if cut is None else cut.name, attention]
    graph.nodes[second.made].inputs = [x3, mlp]
    del graph.nodes[x1], graph.nodes[x2]
    return ("attention", attention), ("MLP", mlp)


def _check(graph: Graph, first: Block, second: Block) -> None:
    pair = f"parallel_blocks [{first.index}, {second.index}]"
    given, cut = second.given, graph.nodes[second.given]
    narrowed = cut.op == "Slice" and cut.inputs[0] == first.made and first.mlp.kind is Branch.POINTWISE
    narrowed = narrowed and cut.shape[:3] == graph.shape(first.given)[:3]
    direct = given == first.made and graph.shape(given) == graph.shape(first.given)
    if not (direct or narrowed) or first.mlp.skip != first.mixer.add or second.mlp.skip != second.mixer.add:
        raise StageError(
            f"{pair}: between the two, the stream changes its layout or its shape",
            hint="name two blocks of one stage of a plain transformer",
        )
    inner = {first.made: {second.mixer.add, given, *second.mixer.nodes}}
    inner[first.mixer.add] = {first.mlp.add, *first.mlp.nodes}
    for tensor, readers in inner.items():
        if read_elsewhere(graph, tensor, readers) is not None:
            raise StageError(f"{pair}: the stream between them is read elsewhere", hint="name other blocks")
