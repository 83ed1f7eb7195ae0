"""Dead code elimination."""

from __future__ import annotations

from bpudeploy.restructure.graph import Graph


def remove_dead(graph: Graph) -> int:
    """Remove nodes that no output depends on, and unread constants; return the number of nodes."""
    needed = set(graph.output_names)
    for node in reversed(graph.nodes.values()):
        if node.name in needed:
            needed.update(node.inputs)
    dead = [name for name in graph.nodes if name not in needed]
    for name in dead:
        del graph.nodes[name]
    for name in [n for n in graph.constants if n not in needed]:
        del graph.constants[name]
    graph.counterparts = [t for t in graph.counterparts if t.view.name in graph.nodes]
    return len(dead)
