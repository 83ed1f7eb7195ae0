"""Merge consecutive Moves, remove those without effect, and fold those of constants."""

from __future__ import annotations

from bpudeploy.restructure.atoms import Atom, Atoms, matched, refinement, sizes, substitute
from bpudeploy.restructure.graph import MOVE, Graph, Node
from bpudeploy.restructure.moves import move_array, transposes


def merge_moves(graph: Graph) -> int:
    """Simplify every Move; return how many were changed."""
    count = 0
    for node in [*graph.nodes.values()]:
        if node.op != MOVE:
            continue
        constant = graph.constants.get(node.inputs[0])
        if constant is not None:
            graph.constants[node.name] = move_array(constant, *node.layouts)
            del graph.nodes[node.name]
            count += 1
            continue
        before = graph.nodes.get(node.inputs[0])
        if before is not None and before.op == MOVE and _append(before, node):
            count += 1
        source, target = node.layouts
        no_op = not transposes(source, target) and sizes(source) == sizes(target)
        if no_op and node.name not in graph.output_names:
            graph.replace_uses(node.name, node.inputs[0])
            del graph.nodes[node.name]
            count += 1
    return count


def _append(first: Node, second: Node) -> bool:
    """Make ``second`` read the input of ``first`` directly; return False if their axes have no common factors."""
    (start, middle), (middle_again, end) = first.layouts, second.layouts
    left: dict[Atom, Atoms] = {}
    right: dict[Atom, Atoms] = {}
    for a, b in zip(middle, middle_again, strict=True):
        if not a:
            continue
        factors = refinement([a, b])
        if factors is None:
            return False
        common = tuple(Atom(n) for n in factors)
        left |= matched(a, common)
        right |= matched(b, common)
    second.source = tuple(substitute(group, left) for group in start)
    second.target = tuple(substitute(group, right) for group in end)
    second.inputs = list(first.inputs)
    return True
