"""Lay a 4-D graph out for an accelerator: patches in small steps, heads on axis 0, tokens in rows."""

from __future__ import annotations

from bpudeploy.layout.heads import stack_heads
from bpudeploy.layout.patches import step_patches
from bpudeploy.layout.rows import lay_in_rows
from bpudeploy.restructure.graph import Graph
from bpudeploy.spec.layout import LayoutFacts


def lay_out(graph: Graph, facts: LayoutFacts) -> dict[str, int]:
    """Change ``graph`` in place; return how often each change was made. Every change is exact."""
    patches = 0 if facts.stride is None else step_patches(graph, facts.stride)
    if facts.rows == 1:
        return {"patches": patches}
    return {"patches": patches, "heads": stack_heads(graph, facts), "rows": lay_in_rows(graph, facts)}
