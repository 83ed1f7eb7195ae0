"""A vision transformer as plain float64 arrays: what the reader gives and the writers of nodes take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Linear:
    """y = weight @ x + bias: weight (out, in), bias (out,)."""

    weight: F64
    bias: F64


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm over C channels: gamma (C,), beta (C,), eps added to the variance."""

    gamma: F64
    beta: F64
    eps: float


@dataclass(frozen=True, eq=False)
class Attention:
    """Multi-head attention; q, k and v are (h·d, C), proj is (C, h·d); ``scale`` multiplies q·k."""

    heads: int
    scale: float
    q: Linear
    k: Linear
    v: Linear
    proj: Linear


@dataclass(frozen=True, eq=False)
class Mlp:
    """fc2(GELU(fc1(x))) with the exact, Erf GELU."""

    fc1: Linear
    fc2: Linear


@dataclass(frozen=True, eq=False)
class Block:
    """x + scale1 · attention(norm1(x)), then x + scale2 · mlp(norm2(x)); the scales are LayerScale's (C,)."""

    norm1: Norm
    attention: Attention
    scale1: F64
    norm2: Norm
    mlp: Mlp
    scale2: F64


@dataclass(frozen=True, eq=False)
class Embedding:
    """Pixels to tokens: ``patch`` (C, 3·p·p), then the prefix tokens in front, then the positions.

    ``prefix`` (C, T) and ``position`` (C, h·w): the class, distillation and register tokens with their
    positions already added, and the positions of the patches.
    """

    image: tuple[int, int]
    patch_size: tuple[int, int]
    patch: Linear
    prefix: F64
    position: F64


class Pool(StrEnum):
    """Which tokens the head reads."""

    CLASS = "class"
    """The first token."""
    DISTILLED = "distilled"
    """The first two, each by a head of its own, averaged."""
    MEAN_THEN_NORM = "mean, then norm"
    NORM_THEN_MEAN = "norm, then mean"


@dataclass(frozen=True, eq=False)
class Head:
    """``linear`` is None where the model gives features; ``distilled`` is the second head of ``Pool.DISTILLED``.

    ``skip`` prefix tokens are left out of a mean.
    """

    pool: Pool
    skip: int
    norm: Norm
    linear: Linear | None
    distilled: Linear | None = None


@dataclass(frozen=True, eq=False)
class Vit:
    """A whole network, from normalised pixels to logits."""

    embedding: Embedding
    blocks: tuple[Block, ...]
    head: Head
