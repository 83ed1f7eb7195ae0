"""Write a model in QDQ form: QuantizeLinear and DequantizeLinear at every tap, and integer weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F64
from bpudeploy.quantize.onnx_edit import set_constants, set_nodes
from bpudeploy.quantize.record import Tap
from bpudeploy.quantize.taps import QuantizationPoint
from bpudeploy.quantize.weights import QuantizedWeights
from bpudeploy.spec.operators import SELECTIONS
from bpudeploy.spec.precision import Precision

OPSET = 13
"""The first opset whose DequantizeLinear has an axis, as per-channel weights need."""
INT16_DOMAIN = "com.microsoft"
"""onnxruntime's domain of QuantizeLinear to int16 below opset 21; the other operators stay in the default domain."""
_LARGEST = 2**31 - 1


def to_int32(values: F64) -> NDArray[np.int32]:
    """Return ``values`` rounded and saturated to int32."""
    return np.clip(np.rint(values), -_LARGEST, _LARGEST).astype(np.int32)


def to_qdq(
    model: onnx.ModelProto,
    points: Sequence[QuantizationPoint],
    taps: Mapping[str, Tap],
    weights: Mapping[str, QuantizedWeights],
) -> onnx.ModelProto:
    """Return a copy of ``model`` (opset 11) in QDQ form (opset 13); ranks and node names stay.

    The tap T becomes the node ``T.quantize`` with output ``T.int8`` (or ``T.int16``), and ``T.dequantize`` with output
    ``T.rounded``, which its readers read. Each Conv in ``weights`` gets int8 weights with one scale per output
    channel, and an int32 bias whose scale is the product of the weight and input scales. No operator of a
    restructured graph changed its meaning for 4-D tensors between opsets 11 and 13 (Softmax is on the last axis).
    """
    out = copy_model(model)
    del out.opset_import[:]
    out.opset_import.append(helper.make_opsetid("", OPSET))
    if any(tap.precision is Precision.INT16 for tap in taps.values()):
        out.opset_import.append(helper.make_opsetid(INT16_DOMAIN, 1))
    writer = _Writer(model, taps)
    for value in model.graph.input:
        writer.round_all(value.name, points)
    for node in model.graph.node:
        writer.copy(node, weights.get(node.name))
        for name in node.output:
            writer.round_all(name, points)
    set_nodes(out, writer.nodes)
    set_constants(out, writer.constants.values())
    onnx.checker.check_model(out)
    return out


def _bias(node: str, bias: F64, scales: F64) -> NDArray[np.int32]:
    """Return an int32 bias.

    Raises:
        StageError: it does not fit.
    """
    integers = bias / scales
    if not np.abs(integers).max() <= _LARGEST:
        raise StageError(
            f"{node}: the bias of channel {int(np.abs(integers).argmax())} does not fit int32",
            hint=f"its input or its weights are near 0 at every calibration image: add {node!r} to quantize.int16, "
            "or check the checkpoint",
        )
    return to_int32(integers)


class _Writer:
    """Collects the nodes and constants of the QDQ graph.

    ``rounded`` maps (reader, tensor) to the rounded tensor it reads instead; ``tap_of`` maps rounded tensors and their
    views to the tap.
    """

    def __init__(self, model: onnx.ModelProto, taps: Mapping[str, Tap]) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.taps = taps
        self.rounded: dict[tuple[str, str], str] = {}
        self.tap_of: dict[str, Tap] = {}

    def round_all(self, tensor: str, points: Sequence[QuantizationPoint]) -> None:
        """Append the roundings of ``tensor``, the wide one first: the narrow one reads it."""
        given = tensor
        for point in (p for p in points if p.tensor == tensor):
            rounded = self._round(point.name, given, self.taps[point.name])
            for reader in point.readers:
                self.rounded[reader, tensor] = rounded
            given = rounded

    def _round(self, name: str, given: str, tap: Tap) -> str:
        kind, dtype = tap.precision.value, np.dtype(tap.precision.value)
        scale = self._store(f"{name}.scale", np.array(tap.scale, dtype=np.float32))
        zero = self._store(f"zero.{kind}", np.array(0, dtype=dtype))
        domain = INT16_DOMAIN if tap.precision is Precision.INT16 else ""
        integers, rounded = f"{name}.{kind}", f"{name}.rounded"
        for op, read, written, suffix in (
            ("QuantizeLinear", given, integers, "quantize"),
            ("DequantizeLinear", integers, rounded, "dequantize"),
        ):
            self.nodes.append(helper.make_node(op, [read, scale, zero], [written], f"{name}.{suffix}", domain=domain))
        self.tap_of[rounded] = tap
        return rounded

    def copy(self, node: onnx.NodeProto, weight: QuantizedWeights | None) -> None:
        """Append ``node`` with rounded inputs; a Conv with ``weight`` gets integer weights."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self.rounded.get((node.name, name), name) for name in node.input]
        if weight is not None:
            inputs = [copy.input[0], self._constant(f"{node.name}.weight", weight.integers, weight.scales)]
            if weight.bias is not None:
                scales = weight.scales * self.tap_of[copy.input[0]].scale
                inputs.append(self._constant(f"{node.name}.bias", _bias(node.name, weight.bias, scales), scales))
            copy.input[:] = inputs
        elif node.op_type in SELECTIONS | {"Concat"}:
            tap, *others = {self.tap_of.get(name) for name in copy.input if name and name not in self.constants}
            if tap is not None and not others:
                self.tap_of[copy.output[0]] = tap
        self.nodes.append(copy)

    def _constant(self, name: str, integers: NDArray[np.generic], scales: F64) -> str:
        inputs = [
            self._store(f"{name}.quantized", integers),
            self._store(f"{name}.scale", scales.astype(np.float32)),
            self._store(f"{name}.zero", np.zeros(len(scales), dtype=integers.dtype)),
        ]
        out = f"{name}.rounded"
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [out], name=f"{name}.dequantize", axis=0))
        return out

    def _store(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name
