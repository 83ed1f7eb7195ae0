"""The MLP: two 1x1 convs with an exact GELU between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bpudeploy.restructure.folds import absorb_norm, centre, scale_rows
from bpudeploy.restructure.weights import Mlp

if TYPE_CHECKING:
    from bpudeploy.restructure.graph import GraphBuilder
    from bpudeploy.restructure.weights import F64, Norm


def fold_mlp(mlp: Mlp, norm: Norm, layer_scale: F64) -> Mlp:
    """Return the same MLP with γ and β in fc1, and LayerScale and the centring P in fc2."""
    return Mlp(absorb_norm(mlp.fc1, norm), centre(scale_rows(mlp.fc2, layer_scale)))


def emit_gelu(graph: GraphBuilder, name: str, x: str) -> str:
    """Append GELU(x) = (x · (1 + erf(x / √2))) · ½, in the order that vendor compilers look for."""
    divided = graph.node("Div", f"{name}.divide", [x, graph.scalar("gelu.sqrt2", math.sqrt(2.0))])
    erf = graph.node("Erf", f"{name}.erf", [divided])
    plus_one = graph.node("Add", f"{name}.plus_one", [erf, graph.scalar("gelu.one", 1.0)])
    product = graph.node("Mul", f"{name}.product", [x, plus_one])
    return graph.node("Mul", name, [product, graph.scalar("gelu.half", 0.5)])


def emit_mlp(graph: GraphBuilder, name: str, x: str, mlp: Mlp) -> str:
    """Append a folded MLP over ``x`` (1, C, 1, N)."""
    hidden = emit_gelu(graph, f"{name}.gelu", graph.conv(f"{name}.fc1", x, mlp.fc1))
    return graph.conv(f"{name}.fc2", hidden, mlp.fc2)
