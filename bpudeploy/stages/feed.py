"""A set's images as a graph takes them: batch by batch, normalised, the last batch filled up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.host import batches

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Feed:
    """``runs``: the indices of the images of each run."""

    samples: Samples
    normalise: Normalisation
    runs: tuple[list[int], ...]

    @classmethod
    def of(cls, graph: onnx.ModelProto, samples: Samples, normalise: Normalisation, count: int | None = None) -> Feed:
        """Take the first ``count`` images, or all, by the batch that ``graph`` was exported for."""
        size = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        images = len(samples) if count is None else min(count, len(samples))
        return cls(samples, normalise, tuple(chosen for chosen, _ in batches(images, size)))

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return map(self.image, range(len(self)))

    def image(self, run: int) -> NDArray[np.float32]:
        """Return the input of one run, float32 (N, 3, H, W)."""
        return self.normalise.apply(self.samples.pixels[self.runs[run]])
