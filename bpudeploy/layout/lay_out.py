"""Lay a 4-D graph out for an accelerator: patches in small steps, windows and heads on axis 0, tokens in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpudeploy.layout.heads import stack_heads
from bpudeploy.layout.patches import step_patches
from bpudeploy.layout.pixels import move_pixels
from bpudeploy.layout.rows import lay_in_rows
from bpudeploy.layout.shapes import move_through_shapes
from bpudeploy.layout.windows import slice_windows
from bpudeploy.restructure.edit import editable_graph
from bpudeploy.restructure.graph import Graph
from bpudeploy.restructure.write import to_onnx
from bpudeploy.spec.layout import LayoutFacts

if TYPE_CHECKING:
    import onnx


def laid_out(model: onnx.ModelProto, facts: LayoutFacts, keep_float: Sequence[str] = ()) -> onnx.ModelProto:
    """Return an exactly rewritten graph, laid out."""
    graph = editable_graph(model, keep_float)
    lay_out(graph, facts)
    return to_onnx(graph)


def lay_out(graph: Graph, facts: LayoutFacts) -> dict[str, int]:
    """Change ``graph`` in place; return how often each change was made. Every change is exact."""
    patches = 0 if facts.stride is None else step_patches(graph, facts.stride)
    if facts.rows == 1:
        return {"patches": patches}
    pixels = 0 if facts.stride is None else move_pixels(graph)
    windows = slice_windows(graph)
    heads = stack_heads(graph, facts)
    shapes, rows = move_through_shapes(graph, facts.reshape_columns), lay_in_rows(graph, facts)
    return {"patches": patches, "pixels": pixels, "windows": windows, "heads": heads, "shapes": shapes, "rows": rows}
