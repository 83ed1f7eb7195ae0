"""From the last block to the logits: pick or average tokens, norm, classify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpudeploy.restructure.folds import absorb_norm
from bpudeploy.restructure.norm import rms_norm
from bpudeploy.restructure.weights import Linear, Pool

if TYPE_CHECKING:
    from bpudeploy.restructure.graph import GraphBuilder
    from bpudeploy.restructure.weights import Head, Norm


def emit_head(graph: GraphBuilder, x: str, head: Head, *, tokens: int) -> str:
    """Append the head over the stream ``x`` (1, C, 1, N) and return the logits, (1, classes, 1, 1).

    The norm acts on each token alone, so a head that reads few tokens slices them first; a mean
    commutes with γ, β and the linear head, not with the norm, so it stands where the model has it.
    """
    channels = head.norm.gamma.shape[0]
    if head.pool is Pool.CLASS:
        x = graph.columns("head.token", x, 0, 1)
    elif head.pool is Pool.DISTILLED:
        x = graph.columns("head.tokens", x, 0, 2)
    elif head.skip:
        x = graph.columns("head.patches", x, head.skip, tokens)
    if head.pool is Pool.MEAN_THEN_NORM:
        x = graph.node("GlobalAveragePool", "head.mean", [x])
    x = rms_norm(graph, "head.norm", x, channels=channels, eps=head.norm.eps)
    if head.pool is Pool.NORM_THEN_MEAN:
        x = graph.node("GlobalAveragePool", "head.mean", [x])
    if head.linear is None:
        scale = Linear(head.norm.gamma[:, None], head.norm.beta)
        return graph.conv("head", x, scale, group=channels)
    if head.distilled is None:
        return graph.conv("head", x, absorb_norm(head.linear, head.norm))
    return graph.conv("head", x, _distilled(head.linear, head.distilled, head.norm), kernel=(1, 2))


def _distilled(first: Linear, second: Linear, norm: Norm) -> Linear:
    """Return both heads as one conv of kernel 1x2 over the two tokens: ½(W₁x₁ + b₁ + W₂x₂ + b₂)."""
    import numpy as np

    one, two = absorb_norm(first, norm), absorb_norm(second, norm)
    weight = np.stack([one.weight, two.weight], axis=2) / 2.0
    return Linear(weight.reshape(weight.shape[0], -1), (one.bias + two.bias) / 2.0)
