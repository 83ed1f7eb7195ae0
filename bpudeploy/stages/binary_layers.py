"""The layers of a binary against float: ``bpudeploy sensitivity --in-binary``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import Normalisation
from bpudeploy.conformance.profile import Profile
from bpudeploy.quantize.taps import FUSED_ACTIVATIONS
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from bpudeploy.quantize.vendor import ActivationScale

    Integers = NDArray[np.integer]


class BinaryLayer(Frozen):
    """One tensor of the binary, and the node that computes it.

    ``error``: the RMS of its difference from float, relative to float's own. ``compute_us``: the compiler's estimate
    for the node; None if it was merged into another. ``promoted``: the predicted increase of the network's time with
    this tensor in int16; None if it is int16 already, or if the march has no int16 there.
    """

    tensor: str
    node: str
    op: str
    precision: Precision
    threshold: float
    cosine: float
    error: float
    compute_us: float | None
    promoted: float | None


def binary_layers(
    prepared: Path,
    quantized: Path,
    images: NDArray[np.uint8],
    normalise: Normalisation,
    integers: Iterator[Mapping[str, Integers]],
    profile: Profile,
    costs: Mapping[str, float],
) -> tuple[BinaryLayer, ...]:
    """Return the tensors that the binary stores as integers, the largest error first.

    Args:
        prepared: the float graph, whose weights are already rounded: what is left is the error of the activations.
        images: uint8 RGB (N, H, W, 3).
        integers: the binary's integers of each image, by tensor.
        costs: by tap that can be int16, the predicted increase of the network's time.
    """
    import onnx

    from bpudeploy.host import open_with_outputs
    from bpudeploy.quantize.deviation import Sums
    from bpudeploy.quantize.exponents import RAISED, raised
    from bpudeploy.quantize.vendor import scale_file

    model = onnx.load(prepared)
    producers = {name: node for node in model.graph.node for name in node.output}
    scales = {(s.tensor, s.precision): s for s in scale_file(onnx.load(quantized)).activations if s.tensor in producers}
    tensors = list(dict.fromkeys(tensor for tensor, _ in scales))
    session, exponents = open_with_outputs(model, tensors, only=True), raised(model)
    sums: dict[tuple[str, Precision], Sums] = {}
    for image, found in zip(images, integers, strict=True):
        made = session.run(tensors, {model.graph.input[0].name: normalise.apply(image[None])})
        for tensor, truth in zip(tensors, made, strict=True):
            values = found.get(tensor)
            if values is not None and values.size == truth.size and values.dtype.name in tuple(Precision):
                key = tensor, Precision(values.dtype.name)
                if key in scales:
                    flat = truth.clip(min=-RAISED).ravel() if tensor in exponents else truth.ravel()  # exp of less is 0
                    sums.setdefault(key, Sums()).add(flat, _real(values.ravel(), flat, scales[key]))
    layers, times = [], profile.nodes()
    for (tensor, precision), one in sums.items():
        sqnr_db, cosine = one.measures()
        layers.append(
            BinaryLayer(
                tensor=tensor,
                node=producers[tensor].name,
                op=producers[tensor].op_type,
                precision=precision,
                threshold=scales[tensor, precision].threshold,
                cosine=cosine,
                error=10.0 ** (-sqnr_db / 20.0),
                compute_us=_time(producers, tensor, times),
                promoted=costs.get(scales[tensor, precision].tap),
            )
        )
    return tuple(sorted(layers, key=lambda layer: -layer.error))


def _time(producers: Mapping[str, onnx.NodeProto], tensor: str, times: Mapping[str, float]) -> float | None:
    """Return the time of the node that computes ``tensor``; an activation is fused with the node before it."""
    node = producers[tensor]
    if node.name not in times and node.op_type in FUSED_ACTIVATIONS and node.input[0] in producers:
        node = producers[node.input[0]]
    return times.get(node.name)


def _real(integers: Integers, truth: NDArray[np.float32], scale: ActivationScale) -> NDArray[np.float64]:
    """Return what the integers mean. What is never negative may be stored unsigned, minus 128."""
    if scale.precision is Precision.INT8 and truth.min() >= 0.0 and integers.min() < 0:
        return (integers.astype("float64") + 128.0) * (scale.threshold / 255.0)
    return integers.astype("float64") * scale.scale
