"""The sliding window of a convolution, and random samples of the input columns that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bpudeploy.onnxmodel import attribute
from bpudeploy.quantize.arrays import F32


@dataclass(frozen=True)
class Window:
    """Kernel, strides and dilations as (rows, columns); pads in ONNX order: top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, node: onnx.NodeProto, kernel: tuple[int, int]) -> Window:
        """Read the attributes of a Conv. A restructured graph has explicit pads only."""
        return cls(
            kernel,
            tuple(attribute(node, "strides", (1, 1))),
            tuple(attribute(node, "pads", (0, 0, 0, 0))),
            tuple(attribute(node, "dilations", (1, 1))),
        )

    def pad(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return ``value`` (N, C, H, W), zero-padded."""
        top, left, bottom, right = self.pads
        return np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(self.pads) else value

    def sample(self, value: F32, count: int, rng: np.random.Generator) -> F32:
        """Return up to ``count`` columns (C * kh * kw, count) of ``value`` (N, C, H, W) at random output positions.

        The first position is always included: it may hold a transformer's class token, one of hundreds, from which
        the prediction is read. Channels come first, as in the weights.
        """
        padded = self.pad(value)
        rows, columns = (
            (size - (k - 1) * d - 1) // s + 1
            for size, k, d, s in zip(padded.shape[2:], self.kernel, self.dilations, self.strides, strict=True)
        )
        total = len(value) * rows * columns
        chosen = rng.choice(total, min(count, total), replace=False)
        chosen[chosen == 0], chosen[0] = chosen[0], 0
        image, position = np.divmod(chosen, rows * columns)
        y, x = np.divmod(position, columns)
        down = (y * self.strides[0])[:, None] + np.arange(self.kernel[0]) * self.dilations[0]
        across = (x * self.strides[1])[:, None] + np.arange(self.kernel[1]) * self.dilations[1]
        taken = padded[image[:, None, None], :, down[:, :, None], across[:, None, :]]  # (count, kh, kw, C)
        return np.ascontiguousarray(taken.transpose(3, 1, 2, 0).reshape(-1, len(chosen)))
