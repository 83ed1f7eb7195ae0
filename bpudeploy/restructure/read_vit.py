"""Reads a timm vision transformer into plain arrays, and refuses what it does not understand.

Modules are told by the name of their type, never by isinstance: a subclass may compute something
else, and timm itself is imported in one place only (see ``bpudeploy.stages``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.restructure.weights import Attention, Block, Embedding, Head, Linear, Mlp, Norm, Pool, Vit

if TYPE_CHECKING:
    import torch

    from bpudeploy.restructure.weights import F64

_VITS = frozenset({"VisionTransformer", "VisionTransformerDistilled"})
_NORMS = frozenset({"LayerNorm", "LayerNormFp32"})
_NOTHING = frozenset({"Identity", "Dropout", "DropPath", "PatchDropout"})
"""What does nothing in evaluation."""


def read_vit(model: torch.nn.Module) -> Vit:
    """Return the weights of a timm VisionTransformer (ViT, DeiT and its distilled form, DINOv2) in float64.

    Raises:
        StageError: naming the module, when there is anything that the rewrite does not understand.
    """
    kind = type(model).__name__
    if kind not in _VITS or not type(model).__module__.startswith("timm."):
        raise StageError(
            f"no rewrite for {type(model).__module__}.{kind}",
            hint="use a plain timm VisionTransformer: vit_*, deit_*, deit3_* or vit_*_dinov2",
        )
    return Vit(
        embedding=_embedding(model),
        blocks=tuple(_block(block, f"blocks.{index}") for index, block in enumerate(_get(model, "blocks"))),
        head=_head(model),
    )


def _embedding(model: torch.nn.Module) -> Embedding:
    import numpy as np

    patch = _expect(model, "patch_embed", frozenset({"PatchEmbed"}))
    for name in ("pos_drop", "patch_drop", "norm_pre"):
        _expect(model, name, _NOTHING)
    _expect(patch, "norm", _NOTHING, path="patch_embed.norm")
    if _get(patch, "dynamic_img_pad"):
        raise _refuse("patch_embed", "dynamic_img_pad")
    proj = _get(patch, "proj")
    if proj.in_channels != 3:
        raise _refuse("patch_embed.proj", f"{proj.in_channels} input channels")
    weight = _array(proj.weight).reshape(proj.out_channels, -1)
    bias = np.zeros(proj.out_channels) if proj.bias is None else _array(proj.bias)
    prefix, position = _positions(model, channels=proj.out_channels, patches=_get(patch, "num_patches"))
    height, width = _get(patch, "img_size")
    down, across = _get(patch, "patch_size")
    return Embedding((height, width), (down, across), Linear(weight, bias), prefix, position)


def _positions(model: torch.nn.Module, *, channels: int, patches: int) -> tuple[F64, F64]:
    """Return the prefix tokens (C, T) with their positions added, and the patches' positions (C, h·w)."""
    import numpy as np

    tokens = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    parts = [_array(token)[0].T for token in tokens if token is not None]
    prefix = np.concatenate([np.zeros((channels, 0)), *parts], axis=1)
    count = prefix.shape[1]
    embedded = _get(model, "pos_embed")
    if embedded is None:
        return prefix, np.zeros((channels, patches))
    position = _array(embedded)[0].T
    if not _get(model, "no_embed_class"):
        prefix, position = prefix + position[:, :count], position[:, count:]
    if position.shape[1] != patches:
        raise _refuse("pos_embed", f"{position.shape[1]} positions for {patches} patches")
    return prefix, position


def _block(block: torch.nn.Module, path: str) -> Block:
    if type(block).__name__ != "Block":
        raise _refuse(path, type(block).__name__)
    for name in ("drop_path1", "drop_path2"):
        _expect(block, name, _NOTHING, path=f"{path}.{name}")
    return Block(
        norm1=_norm(_get(block, "norm1"), f"{path}.norm1"),
        attention=_attention(_expect(block, "attn", frozenset({"Attention"}), path=f"{path}.attn"), f"{path}.attn"),
        scale1=_layer_scale(block, "ls1", path),
        norm2=_norm(_get(block, "norm2"), f"{path}.norm2"),
        mlp=_mlp(_expect(block, "mlp", frozenset({"Mlp"}), path=f"{path}.mlp"), f"{path}.mlp"),
        scale2=_layer_scale(block, "ls2", path),
    )


def _attention(attention: torch.nn.Module, path: str) -> Attention:
    for name in ("q_norm", "k_norm", "norm", "attn_drop", "proj_drop"):
        if hasattr(attention, name):
            _expect(attention, name, _NOTHING, path=f"{path}.{name}")
    if getattr(attention, "gate", None) is not None:
        raise _refuse(f"{path}.gate", "a gated attention")
    qkv = _linear(_get(attention, "qkv"), f"{path}.qkv")
    width = qkv.weight.shape[0] // 3
    q, k, v = (Linear(qkv.weight[i : i + width], qkv.bias[i : i + width]) for i in (0, width, 2 * width))
    proj = _linear(_get(attention, "proj"), f"{path}.proj")
    return Attention(int(_get(attention, "num_heads")), float(_get(attention, "scale")), q, k, v, proj)


def _mlp(mlp: torch.nn.Module, path: str) -> Mlp:
    for name in ("drop1", "drop2", "norm"):
        _expect(mlp, name, _NOTHING, path=f"{path}.{name}")
    act = _expect(mlp, "act", frozenset({"GELU"}), path=f"{path}.act")
    if getattr(act, "approximate", "none") != "none":
        raise _refuse(f"{path}.act", f"GELU approximated by {_get(act, 'approximate')}")
    return Mlp(_linear(_get(mlp, "fc1"), f"{path}.fc1"), _linear(_get(mlp, "fc2"), f"{path}.fc2"))


def _head(model: torch.nn.Module) -> Head:
    _expect(model, "head_drop", _NOTHING)
    before, after = _optional_norm(model, "norm"), _optional_norm(model, "fc_norm")
    norm = before or after
    if norm is None or (before and after):
        raise _refuse("norm, fc_norm", "a head that is not behind exactly one norm")
    linear = _optional_linear(model, "head")
    if type(model).__name__ == "VisionTransformerDistilled":
        second = _optional_linear(model, "head_dist")
        if linear is None or second is None or before is None:
            raise _refuse("head_dist", "a distilled model without two heads behind the norm")
        return Head(Pool.DISTILLED, 0, norm, linear, second)
    pool, count = _get(model, "global_pool"), int(_get(model, "num_prefix_tokens"))
    if pool == "token":
        return Head(Pool.CLASS, 0, norm, linear)
    if pool == "avg" and _get(model, "attn_pool") is None:
        skip = 0 if getattr(model, "pool_include_prefix", False) else count
        return Head(Pool.NORM_THEN_MEAN if before else Pool.MEAN_THEN_NORM, skip, norm, linear)
    raise _refuse("global_pool", repr(pool))


def _layer_scale(block: torch.nn.Module, name: str, path: str) -> F64:
    import numpy as np

    scale = _expect(block, name, frozenset({"LayerScale", "Identity"}), path=f"{path}.{name}")
    if type(scale).__name__ == "Identity":
        return np.ones(_get(block, "norm1").normalized_shape[0])
    return _array(_get(scale, "gamma"))


def _norm(norm: torch.nn.Module, path: str) -> Norm:
    import numpy as np

    if type(norm).__name__ not in _NORMS:
        raise _refuse(path, type(norm).__name__)
    weight, bias = _get(norm, "weight"), _get(norm, "bias")
    (channels,) = _get(norm, "normalized_shape")
    gamma = np.ones(channels) if weight is None else _array(weight)
    beta = np.zeros(channels) if bias is None else _array(bias)
    return Norm(gamma, beta, float(_get(norm, "eps")))


def _optional_norm(model: torch.nn.Module, name: str) -> Norm | None:
    norm = _get(model, name)
    return None if type(norm).__name__ == "Identity" else _norm(norm, name)


def _linear(linear: torch.nn.Module, path: str) -> Linear:
    import numpy as np

    if type(linear).__name__ != "Linear":
        raise _refuse(path, type(linear).__name__)
    weight, bias = _array(_get(linear, "weight")), _get(linear, "bias")
    return Linear(weight, np.zeros(weight.shape[0]) if bias is None else _array(bias))


def _optional_linear(model: torch.nn.Module, name: str) -> Linear | None:
    linear = _get(model, name)
    return None if type(linear).__name__ == "Identity" else _linear(linear, name)


def _expect(parent: torch.nn.Module, name: str, kinds: frozenset[str], *, path: str | None = None) -> torch.nn.Module:
    child: torch.nn.Module = _get(parent, name)
    if type(child).__name__ not in kinds:
        raise _refuse(path or name, type(child).__name__)
    return child


def _get(module: torch.nn.Module, name: str) -> Any:
    """Return an attribute of timm's, whose absence means a timm that we do not know."""
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise _refuse(name, f"{type(module).__name__} without it") from error


def _array(tensor: torch.Tensor) -> F64:
    import numpy as np

    return np.asarray(tensor.detach().double().cpu().numpy(), dtype=np.float64)


def _refuse(path: str, what: str) -> StageError:
    return StageError(
        f"the rewrite does not understand {path}: {what}",
        hint="choose a model without it; plain ViT, DeiT and DINOv2 (with registers, LayerScale) are understood",
    )
