"""Networks whose moves and joins of values the compiler widens, unless it is told each precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bpudeploy.stages.timm_models import timm


class Windows(nn.Module):  # type: ignore[misc]
    """Windows, shifted and not, patch merging, and a transformer on every second pixel."""

    def __init__(self) -> None:
        super().__init__()
        timm()
        from timm.models.mobilevit import MobileVitBlock
        from timm.models.swin_transformer import SwinTransformer

        self.swin = SwinTransformer(
            img_size=64, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 2), num_classes=0, global_pool=""
        )
        self.pixels = MobileVitBlock(32, 32, transformer_dim=32, transformer_depth=1, num_heads=2, patch_size=2)
        self.head = nn.Linear(32, 2)

    def forward(self, image: Tensor) -> Tensor:
        found = self.pixels(self.swin(image).permute(0, 3, 1, 2))
        logits: Tensor = self.head(found.mean((2, 3)))
        return logits


def _step(channels: int, made: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, made, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.SiLU())


class Joins(nn.Module):  # type: ignore[misc]
    """Halves of channels, a residual sum of one of them, joins of all, and an enlarged image, as YOLOs have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.join = _step(3, 32, 3, 4), _step(16, 16, 3), _step(48, 32, 1)
        self.smaller, self.end, self.head = _step(32, 32, 3, 2), _step(64, 32, 3), nn.Linear(32, 2)
        self.larger = nn.Upsample(scale_factor=2)

    def forward(self, image: Tensor) -> Tensor:
        kept, half = self.stem(image).chunk(2, 1)
        joined = self.join(torch.cat([kept, half, half + self.inner(half)], 1))
        found = self.end(torch.cat([self.larger(self.smaller(joined)), joined], 1))
        logits: Tensor = self.head(found.mean((2, 3)))
        return logits
