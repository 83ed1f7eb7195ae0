"""Multi-head attention in 4-D: three 1x1 convs, two MatMuls with the heads on axis 1, one softmax."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bpudeploy.restructure.folds import absorb_norm, centre, drop_key_bias, move_value_bias, scale_rows

if TYPE_CHECKING:
    from bpudeploy.restructure.graph import GraphBuilder
    from bpudeploy.restructure.weights import F64, Attention, Norm


def fold_attention(attention: Attention, norm: Norm, layer_scale: F64) -> Attention:
    """Return the same attention with everything around it folded in.

    Before: γ and β of the norm into q, k, v. Inside: 1/√d into q; the k bias dropped; the v bias into
    proj. After: LayerScale, then the centring P, into proj.
    """
    q = scale_rows(absorb_norm(attention.q, norm), attention.scale)
    k = drop_key_bias(absorb_norm(attention.k, norm))
    v, proj = move_value_bias(absorb_norm(attention.v, norm), attention.proj)
    proj = centre(scale_rows(proj, layer_scale))
    return replace(attention, scale=1.0, q=q, k=k, v=v, proj=proj)


def emit_attention(graph: GraphBuilder, name: str, x: str, attention: Attention, *, tokens: int) -> str:
    """Append a folded attention over ``x`` (1, C, 1, N); h heads of width d, N tokens.

    scores = qᵀk with qᵀ (1, h, N, d) and k (1, h, d, N), which needs no transpose; softmax over the
    keys, the last axis; mixed = scores · vᵀ (1, h, N, d), then back to (1, h·d, 1, N).
    """
    heads, width = attention.heads, attention.q.weight.shape[0] // attention.heads
    by_head, by_token = [1, heads, width, tokens], [0, 1, 3, 2]
    q = graph.reshape(f"{name}.q.heads", graph.conv(f"{name}.q", x, attention.q), by_head)
    k = graph.reshape(f"{name}.k.heads", graph.conv(f"{name}.k", x, attention.k), by_head)
    v = graph.reshape(f"{name}.v.heads", graph.conv(f"{name}.v", x, attention.v), by_head)
    q = graph.node("Transpose", f"{name}.q.rows", [q], perm=by_token)
    v = graph.node("Transpose", f"{name}.v.rows", [v], perm=by_token)
    scores = graph.node("MatMul", f"{name}.scores", [q, k])
    weights = graph.node("Softmax", f"{name}.softmax", [scores], axis=3)
    mixed = graph.node("MatMul", f"{name}.mix", [weights, v])
    mixed = graph.node("Transpose", f"{name}.mix.columns", [mixed], perm=by_token)
    mixed = graph.reshape(f"{name}.mix.tokens", mixed, [1, heads * width, 1, tokens])
    return graph.conv(f"{name}.proj", mixed, attention.proj)
