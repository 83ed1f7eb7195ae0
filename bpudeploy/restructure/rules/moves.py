"""Moves: one after another is one; one that changes nothing goes; one of a constant is done offline."""

from __future__ import annotations

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, matched, refinement, sizes
from bpudeploy.restructure.graph import MOVE, Graph, Node
from bpudeploy.restructure.moves import move_array, transposes


def merge_moves(graph: Graph) -> int:
    """Merge each Move with the Move before it, and drop those that leave shape and order as they were."""
    count = 0
    for node in [*graph.nodes.values()]:
        if node.op != MOVE:
            continue
        constant = graph.constants.get(node.inputs[0])
        if constant is not None and node.source is not None and node.target is not None:
            graph.constants[node.name] = move_array(constant, node.source, node.target)
            del graph.nodes[node.name]
            count += 1
            continue
        before = graph.nodes.get(node.inputs[0])
        if before is not None and before.op == MOVE and _append(before, node):
            count += 1
        assert node.source is not None and node.target is not None
        nothing = not transposes(node.source, node.target) and sizes(node.source) == sizes(node.target)
        if nothing and node.name not in graph.output_names:
            graph.rename_reads(node.name, node.inputs[0])
            del graph.nodes[node.name]
            count += 1
    return count


def _append(first: Node, second: Node) -> bool:
    """Make ``second`` read what ``first`` reads, by one move; False where their axes have no common factors."""
    assert (
        first.source is not None
        and first.target is not None
        and second.source is not None
        and second.target is not None
    )
    left: dict[Atom, Atoms] = {}
    right: dict[Atom, Atoms] = {}
    for a, b in zip(first.target, second.source, strict=True):
        if not a:
            continue
        factors = refinement([a, b])
        if factors is None:
            return False
        common = tuple(Atom(n) for n in factors)
        left |= matched(a, common)
        right |= matched(b, common)
    second.source = _split(first.source, left)
    second.target = _split(second.target, right)
    second.inputs = list(first.inputs)
    return True


def _split(dims: Dims, parts: dict[Atom, Atoms]) -> Dims:
    a, b, c, d = (tuple(x for atom in group for x in parts[atom]) for group in dims)
    return a, b, c, d
