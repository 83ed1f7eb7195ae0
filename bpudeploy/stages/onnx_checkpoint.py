"""Trained weights from an exported ONNX file, under their names in the framework."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import constants_of

if TYPE_CHECKING:
    import numpy as np
    import torch

POSITION = "position_embeddings"
_BACKBONE = {
    "cls_token": "embeddings.cls_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
"""Hugging Face's name of each of timm's weights."""
_LAYERS = {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")} | {"attn.proj": "attention.output.dense"}
_BLOCK = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in _LAYERS.items() for part in ("weight", "bias")} | {
    f"ls{n}.gamma": f"layer_scale{n}.lambda1" for n in "12"
}
"""The same in one block."""


def read_onnx_weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return every named weight of an ONNX export, float32, in the framework's layout.

    torch's exporter keeps the name of a bias but renames the transposed weight of a Linear to ``onnx::MatMul_N``. Such
    a weight is named after the bias of the Add that follows its MatMul, and transposed back to (out, in). Unnamed
    (1, n, C) constants are the position embedding, in token order.
    """
    import numpy as np
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise StageError(f"not an ONNX file: {error}", hint="the source must name an .onnx model") from error
    tensors = constants_of(graph)
    consumers = {name: node for node in graph.node for name in node.input}
    named = {k: v for k, v in tensors.items() if not k.startswith("onnx::")}
    for node in graph.node:
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight in tensors and weight not in named:
            add = consumers.get(node.output[0])
            bias = next((i for i in add.input if i in named and i.endswith(".bias")), None) if add else None
            if bias is not None:
                named[bias.removesuffix("bias") + "weight"] = tensors[weight].T
    anonymous = [v for k, v in tensors.items() if k.startswith("onnx::") and v.ndim == 3 and v.shape[0] == 1]
    if anonymous:
        named[POSITION] = np.concatenate(sorted(anonymous, key=lambda v: v.shape[1]), axis=1)
    return {k: np.ascontiguousarray(v) for k, v in named.items() if v.dtype == np.float32}


def dinov2_state(weights: dict[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    """Rename the backbone of a Hugging Face Dinov2Model to timm's names; other weights are dropped.

    Raises:
        StageError: there is no such backbone in ``weights``.
    """
    import numpy as np
    import torch

    stem = next((k.removesuffix("embeddings.cls_token") for k in weights if k.endswith("embeddings.cls_token")), None)
    if stem is None or POSITION not in weights:
        hint = "use a .safetensors or .pth checkpoint of the architecture"
        raise StageError("this ONNX file contains no DINOv2 backbone with identifiable weights", hint=hint)
    state = {new: weights[stem + old] for new, old in _BACKBONE.items()}
    state["pos_embed"] = weights[POSITION]
    depth = sum(k.startswith(f"{stem}encoder.layer.") and k.endswith(".norm1.weight") for k in weights)
    for i in range(depth):
        old, new = f"{stem}encoder.layer.{i}.", f"blocks.{i}."
        state |= {new + ours: weights[old + theirs] for ours, theirs in _BLOCK.items()}
        for part in ("weight", "bias"):
            qkv = [weights[f"{old}attention.attention.{n}.{part}"] for n in ("query", "key", "value")]
            state[f"{new}attn.qkv.{part}"] = np.concatenate(qkv)
    return {k: torch.from_numpy(v.copy()) for k, v in state.items()}
