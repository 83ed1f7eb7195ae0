"""Pixels to a centred token stream: the patch conv, the prefix tokens, the positions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bpudeploy.restructure.folds import centre, centre_tokens
from bpudeploy.restructure.graph import PIXELS

if TYPE_CHECKING:
    from bpudeploy.restructure.graph import GraphBuilder
    from bpudeploy.restructure.weights import Embedding


def fold_embedding(embedding: Embedding) -> Embedding:
    """Return the same embedding with the centring P in the patch conv and in both constants."""
    return replace(
        embedding,
        patch=centre(embedding.patch),
        prefix=centre_tokens(embedding.prefix),
        position=centre_tokens(embedding.position),
    )


def emit_embedding(graph: GraphBuilder, embedding: Embedding) -> str:
    """Append a folded embedding of ``pixels`` (1, 3, H, W) and return the stream, (1, C, 1, N).

    Positions are prepared offline: the patches get theirs by one Add of a constant, the prefix tokens
    have theirs already. An embedding without positions is an Add that is left out.
    """
    channels, patches = embedding.position.shape
    x = graph.conv("embed.patch", PIXELS, embedding.patch, kernel=embedding.patch_size)
    x = graph.reshape("embed.tokens", x, [1, channels, 1, patches])
    if embedding.position.any():
        position = graph.constant("embed.positions", embedding.position.reshape(1, channels, 1, patches))
        x = graph.node("Add", "embed.position", [x, position])
    if embedding.prefix.shape[1]:
        prefix = graph.constant("embed.prefix", embedding.prefix.reshape(1, channels, 1, -1))
        x = graph.node("Concat", "embed", [prefix, x], axis=3)
    return x
