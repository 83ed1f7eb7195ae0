"""Choose thresholds by the network's outputs where an observer clips much of a tensor's range.

An observer minimises the error of a tensor, in which a few large values of one channel weigh little. In a vision
transformer they may carry the network ("Massive Activations in Large Language Models", Sun et al., 2024, section 5):
a clip of one GELU of the quickstart's ViT-S at 4.2 of 14.1 changes the logits by 44 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from bpudeploy.quantize.arrays import F32
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.record import QuantizeRecord, Tap, int8_taps
from bpudeploy.quantize.sensitivity import tap_errors
from bpudeploy.quantize.taps import QuantizationPoint

_CLIPPED = 1.5
"""Only a tap whose peak is more than this times its threshold is examined: less clipping costs less than a bit."""
_SHARES = (0.0, 0.5, 1.0)
"""The candidates: threshold * (peak / threshold) ** share."""


def choose_clipping(
    model: onnx.ModelProto, points: Sequence[QuantizationPoint], taps: Mapping[str, Tap], images: Sequence[F32]
) -> dict[str, Tap]:
    """Return ``taps`` with the threshold that changes the network's outputs least, if only that tap is rounded.

    Examined are the int8 taps that feed products and that their observer clips by more than 1.5 times; the candidates
    are its threshold, the peak and their geometric mean.

    Args:
        model: the float graph of ``points``.
        images: float32 (N, 3, H, W), normalised; each is run three times in float and three times per examined tap.
            Without any, ``taps`` are returned as they are.
    """
    record = QuantizeRecord(observer="", images=len(images), taps=dict(taps), products=())
    clipped = {name: tap for name, tap in int8_taps(record).items() if tap.peak > _CLIPPED * tap.threshold}
    if not clipped or not images:
        return dict(taps)
    best: dict[str, tuple[float, Tap]] = {}
    for share in _SHARES:
        tried = {
            name: tap.model_copy(update={"threshold": tap.threshold * (tap.peak / tap.threshold) ** share})
            for name, tap in clipped.items()
        }
        rounded = to_qdq(model, [point for point in points if point.name in tried], tried, {})
        record.model_copy(update={"taps": tried}).write(rounded)
        for name, error in tap_errors(model, rounded, list(tried), images, {}).items():
            if name not in best or error < best[name][0]:
                best[name] = error, tried[name]
    return dict(taps) | {name: tap for name, (_, tap) in best.items()}
