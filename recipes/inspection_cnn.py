"""A small CNN for surface inspection, of the kind that tutorials train on photos of castings."""

from __future__ import annotations

import torch
from torch import nn


class InspectionCNN(nn.Module):
    """Blocks of convolution, ReLU and pooling, then two dense layers; RGB images in, one score a class out.

    A grey photo comes as three equal planes, which ``forward`` makes one again.
    """

    def __init__(self, channels: list[int], hidden: int, classes: int, pixels: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in zip([1, *channels], channels, strict=False):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        side = pixels // 2 ** (len(channels) + 1)
        self.features = nn.Sequential(*blocks, nn.AvgPool2d(2))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(x.mean(1, keepdim=True)))
        return scores
