"""Find the first tensor, in the original's order, that the rewrite changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpudeploy.host import open_with_outputs
from bpudeploy.onnxmodel import inputs_of, shape_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from bpudeploy.restructure.rewrite import TensorMap

    F32 = NDArray[np.float32]

_PER_RUN = 64
"""Tensors compared per run: all tensors of a big network would not fit in memory."""


def first_difference(
    rewritten: onnx.ModelProto, tensor_map: TensorMap, original: onnx.ModelProto, pixels: F32, tolerance: float
) -> str:
    """Name the first layer of the original whose output differs by more than ``tolerance`` times its range.

    Both models run in onnxruntime on ``pixels`` (N, 3, H, W). Tensors whose mean over channels was folded away
    are compared without their mean.
    """
    import numpy as np

    counterparts = tensor_map.counterparts
    for start in range(0, len(counterparts), _PER_RUN):
        chosen = counterparts[start : start + _PER_RUN]
        theirs = _outputs(original, [t.original for t in chosen], pixels)
        ours = _outputs(rewritten, [t.view.name for t in chosen], pixels)
        for counterpart in chosen:
            mine, other = ours[counterpart.view.name], counterpart.expected(theirs[counterpart.original])
            if counterpart.view.name in tensor_map.centred:
                other = other - other.mean(axis=1, keepdims=True)
            if not np.abs(mine - other).max() <= tolerance * max(float(np.ptp(other)), 1e-30):
                return f"the first layer that differs is {counterpart.layer}"
    return "no inner layer exceeds the tolerance: it is the last layer, or accumulated rounding"


def _outputs(model: onnx.ModelProto, names: Sequence[str], pixels: F32) -> dict[str, F32]:
    """Run ``model`` on ``pixels`` (N, 3, H, W), transposed if its input is NHWC, and return the tensors ``names``."""
    session = open_with_outputs(model, names, lean=True)
    (image,) = inputs_of(model.graph)
    array = pixels if shape_of(image)[1:] == pixels.shape[1:] else pixels.transpose(0, 2, 3, 1)
    wanted = list(dict.fromkeys(names))
    return dict(zip(wanted, session.run(wanted, {image.name: array}), strict=True))
