"""The window of a convolution: how it reads its input, and columns of that input drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations as (rows, columns); pads as ONNX has them: top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, node: onnx.NodeProto, kernel: tuple[int, int]) -> Window:
        """Read a Conv's attributes (a restructured graph has explicit pads only)."""
        from onnx import helper

        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return cls(
            kernel,
            tuple(given.get("strides", (1, 1))),
            tuple(given.get("pads", (0, 0, 0, 0))),
            tuple(given.get("dilations", (1, 1))),
        )

    def draw(self, value: F32, count: int, rng: np.random.Generator) -> F32:
        """Return ``count`` columns (C * kh * kw, count) of ``value`` (N, C, H, W) at random output positions.

        The first position is always one of them: a transformer's class token stands there, one among hundreds, and
        the answer is read from it. Fewer where there are fewer positions. Channels lead, as in the weights.
        """
        import numpy as np

        top, left, bottom, right = self.pads
        padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(self.pads) else value
        rows, columns = (
            (size - (k - 1) * d - 1) // s + 1
            for size, k, d, s in zip(padded.shape[2:], self.kernel, self.dilations, self.strides, strict=True)
        )
        total = len(value) * rows * columns
        chosen = rng.choice(total, min(count, total), replace=False)
        chosen[chosen == 0], chosen[0] = chosen[0], 0
        image, place = np.divmod(chosen, rows * columns)
        y, x = np.divmod(place, columns)
        down = (y * self.strides[0])[:, None] + np.arange(self.kernel[0]) * self.dilations[0]
        across = (x * self.strides[1])[:, None] + np.arange(self.kernel[1]) * self.dilations[1]
        taken = padded[image[:, None, None], :, down[:, :, None], across[:, None, :]]  # (count, kh, kw, C)
        return np.ascontiguousarray(taken.transpose(3, 1, 2, 0).reshape(-1, len(chosen)))
