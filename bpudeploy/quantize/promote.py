"""Promote int8 taps of a quantized model to int16, and rescale the biases that depend on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper

from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F64
from bpudeploy.quantize.onnx_edit import constant, put_constant, set_constants
from bpudeploy.quantize.qdq import INT16_DOMAIN, to_int32
from bpudeploy.quantize.record import HEADROOM, QuantizeRecord
from bpudeploy.quantize.taps import GraphIndex
from bpudeploy.spec.precision import Precision

_INT16 = Precision.INT16
_ZERO = f"zero.{_INT16}"


def promote(
    quantized: onnx.ModelProto, taps: Collection[str], corrections: Mapping[str, F64] | None = None
) -> onnx.ModelProto:
    """Return a copy of a QDQ model with the int8 ``taps`` in int16, with ``HEADROOM`` times the calibrated range.

    A Conv that reads a promoted tap keeps its int8 weights. Its int32 bias, whose scale is the product of the weight
    and input scales, is rounded again and saturated.

    Args:
        corrections: by Conv, the correction for int8 in its bias (``bias_corrections``), to be removed.

    Raises:
        ValueError: a tap is named twice, not in the model, or not int8.
    """
    record = QuantizeRecord.read(quantized)
    _check(record, taps)
    out = copy_model(quantized)
    if not taps:
        return out
    promoted = {
        name: tap.model_copy(update={"precision": _INT16, "threshold": HEADROOM * tap.peak}) if name in taps else tap
        for name, tap in record.taps.items()
    }
    index = GraphIndex(out)
    for name in taps:
        scale = promoted[name].scale
        _widen(out, index, name, scale)
        for product in promoted[name].products:
            _rescale_bias(out, index, product, scale / record.taps[name].scale, (corrections or {}).get(product))
    record.model_copy(update={"taps": promoted}).write(out)
    put_constant(out, _ZERO, np.array(0, np.int16))
    if INT16_DOMAIN not in {entry.domain for entry in out.opset_import}:
        out.opset_import.append(helper.make_opsetid(INT16_DOMAIN, 1))
    set_constants(out, out.graph.initializer)
    return out


def without_corrections(
    prepared: onnx.ModelProto, record: QuantizeRecord, taps: Collection[str], corrections: Mapping[str, F64]
) -> onnx.ModelProto:
    """Return a copy of the prepared float graph without the bias corrections for ``taps`` in int8."""
    out = copy_model(prepared)
    nodes = {node.name: node for node in out.graph.node}
    for product in dict.fromkeys(product for name in taps for product in record.taps[name].products):
        if product in corrections and len(nodes[product].input) > 2:
            bias = nodes[product].input[2]
            put_constant(out, bias, (constant(out, bias) - corrections[product]).astype(np.float32))
    return out


def _check(record: QuantizeRecord, taps: Collection[str]) -> None:
    for name, count in Counter(taps).items():
        if name not in record.taps:
            raise ValueError(f"there is no tap {name}")
        if count > 1 or record.taps[name].precision is not Precision.INT8:
            raise ValueError(f"the tap {name} is promoted twice, or was not int8")


def _widen(model: onnx.ModelProto, index: GraphIndex, tap: str, scale: float) -> None:
    """Change the QuantizeLinear and DequantizeLinear of a tap to int16."""
    quantize, dequantize = (index.nodes[f"{tap}.{suffix}"] for suffix in ("quantize", "dequantize"))
    for node in (quantize, dequantize):
        node.domain, node.input[2] = INT16_DOMAIN, _ZERO
    quantize.output[0] = dequantize.input[0] = f"{tap}.{_INT16}"
    put_constant(model, quantize.input[1], np.array(scale, np.float32))


def _rescale_bias(
    model: onnx.ModelProto, index: GraphIndex, product: str, factor: float, correction: F64 | None
) -> None:
    """Multiply the scale of a Conv's bias, if it has one, by ``factor``, and subtract ``correction``."""
    node = index.nodes[product]
    if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in index.producers:
        return
    integers, scales = index.producers[node.input[2]].input[:2]
    values, steps = constant(model, integers), constant(model, scales)
    corrected = values if correction is None else values - correction / steps
    put_constant(model, integers, to_int32(corrected / factor))
    put_constant(model, scales, (steps * factor).astype(np.float32))
