"""Where two networks part: the first tensor, in the original's order, that is not what it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpudeploy.host import open_session

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from bpudeploy.restructure.rewrite import Reading

    F32 = NDArray[np.float32]

_AT_ONCE = 64
"""Tensors looked at in one run: all of a big network's would not fit in memory."""


def first_difference(
    rewritten: onnx.ModelProto, reading: Reading, original: onnx.ModelProto, pixels: F32, tolerance: float
) -> str:
    """Say which layer of the original is the first whose output differs by more than ``tolerance`` of its range.

    Both run under onnxruntime on ``pixels`` (N, 3, H, W). Tensors whose mean over channels a rule took away
    are compared without it.
    """
    import numpy as np

    twins = reading.twins
    for start in range(0, len(twins), _AT_ONCE):
        chosen = twins[start : start + _AT_ONCE]
        theirs = _outputs(original, [t.original for t in chosen], pixels)
        ours = _outputs(rewritten, [t.output.name for t in chosen], pixels)
        for twin in chosen:
            mine, other = ours[twin.output.name], twin.placed(theirs[twin.original])
            if twin.output.name in reading.centred:
                other = other - other.mean(axis=1, keepdims=True)
            if not np.abs(mine - other).max() <= tolerance * max(float(np.ptp(other)), 1e-30):
                return f"the first layer that differs is {twin.layer}"
    return "no inner layer differs by more than that: it is the last one, or rounding that adds up"


def _outputs(model: onnx.ModelProto, names: Sequence[str], pixels: F32) -> dict[str, F32]:
    """Return the tensors ``names`` of ``model`` run on ``pixels``, laid out as its input wants them."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = list(dict.fromkeys(names))
    del copy.graph.output[:]
    for name in wanted:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(copy.SerializeToString(), lean=True)
    weights = {t.name for t in copy.graph.initializer}
    (given,) = (i for i in session.get_inputs() if i.name not in weights)
    fed = pixels if list(given.shape[1:]) == list(pixels.shape[1:]) else pixels.transpose(0, 2, 3, 1)
    return dict(zip(wanted, session.run(wanted, {given.name: fed}), strict=True))
