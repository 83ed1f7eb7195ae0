"""CMT, convolution and attention in each block, after Guo et al., arXiv 2107.06263; the defaults are CMT-Ti's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def convolution(before: int, after: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, side, stride, side // 2 if stride == 1 or side == 3 else 0, groups=groups)


class Attention(nn.Module):
    """Self-attention whose keys and values are those of a map that a depthwise convolution made smaller."""

    def __init__(self, width: int, heads: int, reduce: int, side: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.reduce = nn.Identity()
        if reduce > 1:
            small = convolution(width, width, reduce, reduce, width)
            self.reduce = nn.Sequential(small, nn.BatchNorm2d(width))
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)
        self.side = side

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        side = self.side
        small = self.reduce(x.transpose(1, 2).reshape(n, width, side, side)).flatten(2).transpose(1, 2)
        q, k, v = (
            made.reshape(n, -1, self.heads, width // self.heads).transpose(1, 2)
            for made in (self.q(x), self.k(small), self.v(small))
        )
        weights = (q @ k.transpose(2, 3) * self.scale + bias).softmax(-1)
        return self.project((weights @ v).transpose(1, 2).reshape(n, tokens, width))


class Inverted(nn.Module):
    """An inverted residual feed-forward network: 1x1, depthwise 3x3 with a shortcut, 1x1."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(convolution(width, inner, 1), nn.GELU(), nn.BatchNorm2d(inner))
        self.look = convolution(inner, inner, 3, groups=inner)
        self.narrow = nn.Sequential(
            nn.GELU(), nn.BatchNorm2d(inner), convolution(inner, width, 1), nn.BatchNorm2d(width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(x)
        return self.narrow(x + self.look(x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, reduce: int, side: int, expand: float) -> None:
        super().__init__()
        self.perceive = convolution(width, width, 3, groups=width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduce, side)
        self.feed = Inverted(width, int(width * expand))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = x + self.perceive(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm1(tokens), bias)
        normed = self.norm2(tokens).transpose(1, 2).reshape(x.shape)
        return tokens.transpose(1, 2).reshape(x.shape) + self.feed(normed)


class Aggregate(nn.Module):
    """A map at half its side: 2x2 convolution, then a norm over channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.shrink, self.norm = convolution(before, after, 2, 2), nn.LayerNorm(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shrink(x)
        return self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """Blocks of one width; the bias of relative positions is shared among them."""

    def __init__(self, before: int, width: int, depth: int, heads: int, reduce: int, side: int, expand: float) -> None:
        super().__init__()
        self.aggregate = Aggregate(before, width)
        self.bias = nn.Parameter(torch.zeros(heads, side * side, (side // reduce) ** 2))
        self.blocks = nn.ModuleList(Block(width, heads, reduce, side, expand) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.aggregate(x)
        for block in self.blocks:
            x = block(x, self.bias)
        return x


class CMT(nn.Module):
    """RGB images (N, 3, pixels, pixels) in, one score a class out."""

    def __init__(
        self,
        pixels: int = 160,
        stem: int = 16,
        widths: Sequence[int] = (46, 92, 184, 368),
        depths: Sequence[int] = (2, 2, 10, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        reduce: Sequence[int] = (8, 4, 2, 1),
        expand: float = 3.6,
        hidden: int = 1280,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        first: list[nn.Module] = []
        for before, stride in ((3, 2), (stem, 1), (stem, 1)):
            first += [convolution(before, stem, 3, stride), nn.GELU(), nn.BatchNorm2d(stem)]
        layers, side, before = first, pixels // 2, stem
        for width, depth, count, small in zip(widths, depths, heads, reduce, strict=True):
            side //= 2
            layers.append(Stage(before, width, depth, count, small, side, expand))
            before = width
        self.features = nn.Sequential(*layers)
        self.last = nn.Sequential(convolution(before, hidden, 1), nn.BatchNorm2d(hidden), nn.SiLU())
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.last(self.features(x).mean((2, 3), keepdim=True))
        scores: torch.Tensor = self.head(pooled.flatten(1))
        return scores
