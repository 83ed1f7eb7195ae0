"""The pass over the calibration set: run the float graph with all taps, and keep one histogram each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.host import open_session
from bpudeploy.quantize.observer import Histogram

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


def observe(
    model: onnx.ModelProto, taps: Sequence[str], images: Iterable[NDArray[np.float32]], progress: Callable[[int], None]
) -> dict[str, Histogram]:
    """Return the histogram of |x| at each tap over all ``images``, each float32 (1, 3, H, W), normalised.

    Raises:
        StageError: a tap is not finite; it is named.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {value.name for value in copy.graph.input}
    inside = [name for name in taps if name not in inputs]
    del copy.graph.output[:]
    for name in inside:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(copy.SerializeToString())
    (fed,) = (value.name for value in session.get_inputs())
    histograms = {name: Histogram() for name in taps}
    for done, image in enumerate(images, 1):
        made = session.run(inside, {fed: image}) if inside else []
        values = dict(zip(inside, made, strict=True)) | {fed: image}
        for name in taps:
            try:
                histograms[name].add(values[name])
            except ValueError as error:
                raise StageError(
                    f"calibration image {done} makes {name} infinite or NaN",
                    hint="check the weights and the preprocessing",
                ) from error
        progress(done)
    return histograms
