"""The walk: a vision transformer's weights to the whole 4-D graph, and where to look inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.restructure.attention import emit_attention, fold_attention
from bpudeploy.restructure.embedding import emit_embedding, fold_embedding
from bpudeploy.restructure.graph import GraphBuilder
from bpudeploy.restructure.head import emit_head
from bpudeploy.restructure.mlp import emit_mlp, fold_mlp
from bpudeploy.restructure.norm import rms_norm

if TYPE_CHECKING:
    import onnx

    from bpudeploy.restructure.weights import Block, Vit


@dataclass(frozen=True)
class Rewritten:
    """The new graph; ``taps`` are the tensors of the residual stream: after the embedding, after each block.

    Every tap is the model's own stream with the channel mean taken off at each token, as (1, C, 1, N).
    """

    model: onnx.ModelProto
    taps: tuple[str, ...]
    keep_float: tuple[str, ...]


def rewrite(vit: Vit) -> Rewritten:
    """Return the exact 4-D form of ``vit``: opset 11, batch 1, weights inherited.

    Input ``pixels`` float32 (1, 3, H, W), normalised; output ``logits`` float32 (1, classes, 1, 1):
    still 4-D, because a Reshape at the end would be the only 2-D tensor; who reads them flattens.
    """
    graph = GraphBuilder()
    x = emit_embedding(graph, fold_embedding(vit.embedding))
    tokens = vit.embedding.prefix.shape[1] + vit.embedding.position.shape[1]
    taps = [x]
    for index, block in enumerate(vit.blocks):
        x = _emit_block(graph, f"blocks.{index}", x, block, tokens=tokens)
        taps.append(x)
    logits = emit_head(graph, x, vit.head, tokens=tokens)
    linear = vit.head.linear
    classes = vit.head.norm.gamma.shape[0] if linear is None else linear.weight.shape[0]
    model = graph.model(vit.embedding.image, logits, [1, classes, 1, 1])
    return Rewritten(model, tuple(taps), graph.keep_float)


def _emit_block(graph: GraphBuilder, name: str, x: str, block: Block, *, tokens: int) -> str:
    channels = block.norm1.gamma.shape[0]
    attention = fold_attention(block.attention, block.norm1, block.scale1)
    normed = rms_norm(graph, f"{name}.norm1", x, channels=channels, eps=block.norm1.eps)
    mixed = emit_attention(graph, f"{name}.attn", normed, attention, tokens=tokens)
    x = graph.node("Add", f"{name}.middle", [x, mixed])
    mlp = fold_mlp(block.mlp, block.norm2, block.scale2)
    normed = rms_norm(graph, f"{name}.norm2", x, channels=channels, eps=block.norm2.eps)
    return graph.node("Add", name, [x, emit_mlp(graph, f"{name}.mlp", normed, mlp)])
