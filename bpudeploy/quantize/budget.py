"""Spend a small part of the time on int16, where that reduces the error of the network's outputs most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx

from bpudeploy.onnxmodel import attribute
from bpudeploy.quantize.arrays import F32
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.record import QuantizeRecord, Tap
from bpudeploy.quantize.sensitivity import can_be_int16, tap_errors
from bpudeploy.quantize.slowdown import slowdown
from bpudeploy.quantize.taps import QuantizationPoint
from bpudeploy.spec.precision import PrecisionRules

_ENOUGH = 5e-4
"""Nothing is promoted once the errors of the int8 taps add up to less than this part of the outputs' variance: about
2 % of the logits."""


def choose_int16(
    model: onnx.ModelProto,
    points: Sequence[QuantizationPoint],
    taps: Mapping[str, Tap],
    rules: PrecisionRules,
    images: Sequence[F32],
    macs: Mapping[str, int],
    budget: float,
) -> tuple[str, ...]:
    """Return the int8 taps to promote to int16, the best error per cost first.

    Args:
        model: the float graph of ``points``.
        images: float32 (N, 3, H, W), normalised; each is run once in float and once per tap.
        macs: multiply-accumulates by node.
        budget: the largest predicted slowdown, as a part of the time before: 0.05 is 5 %.
    """
    record = QuantizeRecord(observer="", images=len(images), taps=dict(taps), products=())
    rounded = to_qdq(model, points, taps, {})
    record.write(rounded)
    able = can_be_int16(rounded, rules)
    computed = {node.name: macs.get(node.name, 0) * _stride_waste(node) for node in model.graph.node}

    def cost(names: Sequence[str]) -> float:
        return slowdown(record, computed, rules.int16_cost, names) - 1.0

    errors = tap_errors(model, rounded, able, images, {}) if able else {}
    left, chosen = sum(errors.values()), list[str]()
    for name in sorted(able, key=lambda name: errors[name] / max(cost([name]), 1e-9), reverse=True):
        if left > _ENOUGH and cost([*chosen, name]) <= budget:
            chosen.append(name)
            left -= errors[name]
    return tuple(chosen)


def _stride_waste(node: onnx.NodeProto) -> int:
    """Return how many times the work of its result a convolution takes.

    A stride above 2 is computed at stride 2, an odd one at 1, and the rest thrown away (hb_mapper 1.24.3 on X5).
    """
    strides = attribute(node, "strides", [1]) if node.op_type == "Conv" else [1]
    return prod(s // (1 if s % 2 else 2) for s in strides if s > 2)
