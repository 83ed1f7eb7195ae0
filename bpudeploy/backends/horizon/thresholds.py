"""The recipe's thresholds for hb_mapper, and whether its binary has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.onnxmodel import attributes_of
from bpudeploy.quantize.taps import GraphIndex
from bpudeploy.quantize.vendor import scale_file

if TYPE_CHECKING:
    import onnx

QUANTIZATION = "quantization.json"
_POINT = "HzCalibration"
_PREPROCESS = "HZ_PREPROCESS_FOR_"
_EXACT = 1e-5
"""The tool stores float32."""


def quantization(quantized: onnx.ModelProto) -> dict[str, Any]:
    """Return what ``inside/build.py`` reads: thresholds by tensor and precision, scales by weight.

    What only moves values has the thresholds of what it moves, so that the tool does not round it again.
    """
    found = scale_file(quantized)
    activations: dict[str, dict[str, float]] = {}
    for tap in found.activations:
        activations.setdefault(tap.tensor, {})[tap.precision.value] = tap.threshold
    graph = GraphIndex(quantized)
    for node in quantized.graph.node:
        if graph.is_view(node):
            moved = activations.get(graph.unrounded(node.input[0]))
            if moved is not None:
                activations[node.output[0]] = moved | activations.get(node.output[0], {})
    return {"activations": activations, "weights": {weight.tensor: weight.scales for weight in found.weights}}


def differences(given: Path, calibrated: Path) -> tuple[str, ...]:
    """Return a line for each tensor of ``given`` that has another threshold or precision in the tool's model.

    Args:
        given: the file of ``quantization``.
        calibrated: the tool's calibrated model, ONNX with its own operators. Tensors inside what it fuses to one
            operator are not in it, and no difference.
    """
    import onnx

    asked = json.loads(given.read_text(encoding="utf-8"))["activations"]
    return tuple(
        f"{tensor}: {precision} {threshold:.6g} where quantize has {_options(asked[tensor])}"
        for tensor, precision, threshold in _points(onnx.load(calibrated))
        if tensor in asked
        and not any(
            kind == precision and abs(threshold - value) <= _EXACT * value for kind, value in asked[tensor].items()
        )
    )


def _options(found: dict[str, float]) -> str:
    return " or ".join(f"{precision} {threshold:.6g}" for precision, threshold in found.items())


def _points(model: onnx.ModelProto) -> Iterator[tuple[str, str, float]]:
    """Yield tensor, precision and threshold of each calibration point of an activation, the last one of several."""
    points = {node.output[0]: node for node in model.graph.node if node.op_type == _POINT}
    fixed = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    followed = {node.input[0] for node in points.values()}
    for name, node in points.items():
        tensor, values = node.input[0], attributes_of(node)
        while tensor in points:  # the tool rounds to int16 first where a convolution needs it
            tensor = points[tensor].input[0]
        if name not in followed and tensor not in fixed and len(values.get("thresholds", ())) == 1:
            precision = values.get("qtype", "int8").replace("uint8", "int8")  # twice the levels for the same threshold
            yield tensor.removeprefix(_PREPROCESS), precision, values["thresholds"][0]
