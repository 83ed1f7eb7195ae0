"""Images as input batches of a graph: normalised, the last batch padded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.host import batches

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Feed:
    """``runs``: the image indices of each batch."""

    samples: Samples
    normalise: Normalisation
    runs: tuple[list[int], ...]

    @classmethod
    def of(cls, graph: onnx.ModelProto, samples: Samples, normalise: Normalisation, count: int | None = None) -> Feed:
        """Return the first ``count`` images (all if None) in batches of the size of the graph's input."""
        size = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        images = len(samples) if count is None else min(count, len(samples))
        return cls(samples, normalise, tuple(chosen for chosen, _ in batches(images, size)))

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return map(self.batch, range(len(self)))

    def batch(self, run: int) -> NDArray[np.float32]:
        """Return one input batch, float32 (N, 3, H, W)."""
        return self.normalise.apply(self.samples.pixels[self.runs[run]])


def run_all(
    session: Any, images: Samples, normalise: Normalisation, names: list[str] | None = None
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Run a network on every image; yield the number done, and the outputs (or ``names``) of each batch.

    Axis 0 of an output is the images, or a multiple of them; the rows of the last batch's padding are cut off.
    """
    (image_input,) = session.get_inputs()
    for chosen, kept in batches(len(images), image_input.shape[0]):
        made = session.run(names, {image_input.name: normalise.apply(images.pixels[chosen])})
        yield chosen[0] + kept, [array[: len(array) * kept // len(chosen)] for array in made]
