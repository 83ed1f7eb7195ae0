"""What nobody reads goes: nodes, and the constants that only they had."""

from __future__ import annotations

from bpudeploy.restructure.graph import Graph


def remove_dead(graph: Graph) -> int:
    """Remove every node that no output needs, and every constant without a reader."""
    needed = set(graph.output_names)
    for node in reversed(graph.nodes.values()):
        if node.name in needed:
            needed.update(node.inputs)
    gone = [name for name in graph.nodes if name not in needed]
    for name in gone:
        del graph.nodes[name]
    for name in [n for n in graph.constants if n not in needed]:
        del graph.constants[name]
    graph.twins = [t for t in graph.twins if t.output.name in graph.nodes]
    return len(gone)
