"""int8 to int16 in a model that is quantized already: the taps that are named, and the biases whose scale is theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bpudeploy.quantize.qdq import INT16_DOMAIN, to_int32
from bpudeploy.quantize.record import QuantizeRecord, Tap
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

HEADROOM = 4.0
"""An int16 tap holds so many times the largest value that calibration saw: two bits of fifteen, for images that go
further. With migrated scales some do, by 4 times on the miniature of ``tests/run/test_promise.py``; with every tap in
int16 its error falls from 0.0131 of the logits' variance to 0.0017. On the quickstart's model it stays (0.0046,
0.0048).
"""
_INT16 = Precision.INT16
_ZERO = f"zero.{_INT16}"


def promote(
    quantized: onnx.ModelProto, taps: Collection[str], shifts: Mapping[str, NDArray[np.float64]] | None = None
) -> onnx.ModelProto:
    """Return a copy of a QDQ model with the int8 ``taps`` in int16, up to ``HEADROOM`` times what calibration saw.

    A Conv that reads one keeps its int8 weights; its int32 bias, whose scale is the product of the weights' and the
    input's, is rounded anew and held at the ends of int32.

    Args:
        shifts: of a Conv what its bias has in it to make up for its int8 input (``bias_shifts``): it is taken out.

    Raises:
        ValueError: a tap that is named twice, that the model has not, or that is not int8.
    """
    import onnx

    record = QuantizeRecord.read(quantized)
    _check(record, taps)
    out = onnx.ModelProto()
    out.CopyFrom(quantized)
    if not taps:
        return out
    made = {
        name: tap.model_copy(update={"precision": _INT16, "threshold": HEADROOM * tap.peak}) if name in taps else tap
        for name, tap in record.taps.items()
    }
    writer = _Writer(out)
    for name in taps:
        writer.widen(name, made[name])
        for product in made[name].products:
            writer.rescale_bias(product, made[name].scale / record.taps[name].scale, (shifts or {}).get(product))
    record.model_copy(update={"taps": made}).write(out)
    writer.finish()
    return out


def without_shifts(
    prepared: onnx.ModelProto, record: QuantizeRecord, taps: Collection[str], shifts: Mapping[str, NDArray[np.float64]]
) -> onnx.ModelProto:
    """Return a copy of the prepared float graph whose biases no longer make up for ``taps`` in int8."""
    import onnx
    from onnx import numpy_helper

    out = onnx.ModelProto()
    out.CopyFrom(prepared)
    nodes = {node.name: node for node in out.graph.node}
    constants = {tensor.name: tensor for tensor in out.graph.initializer}
    for product in dict.fromkeys(product for name in taps for product in record.taps[name].products):
        if product in shifts and len(nodes[product].input) > 2:
            bias = constants[nodes[product].input[2]]
            held = numpy_helper.to_array(bias).astype("float64") - shifts[product]
            bias.CopyFrom(numpy_helper.from_array(held.astype("float32"), bias.name))
    return out


def _check(record: QuantizeRecord, taps: Collection[str]) -> None:
    for name, count in Counter(taps).items():
        if name not in record.taps:
            raise ValueError(f"there is no tap {name}")
        if count > 1 or record.taps[name].precision is not Precision.INT8:
            raise ValueError(f"the tap {name} is promoted twice, or was not int8")


class _Writer:
    """Changes a model in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def widen(self, name: str, tap: Tap) -> None:
        """Let the pair of roundings of a tap round to int16."""
        import numpy as np

        pair = [self.nodes[f"{name}.{what}"] for what in ("quantize", "dequantize")]
        for node in pair:
            node.domain, node.input[2] = INT16_DOMAIN, _ZERO
        pair[0].output[0] = pair[1].input[0] = f"{name}.{_INT16}"
        self._put(pair[0].input[1], np.array(tap.scale, np.float32))

    def rescale_bias(self, product: str, factor: float, shift: NDArray[np.float64] | None) -> None:
        """Bring the bias of a Conv, if it has one, to ``factor`` times its scale, less ``shift``."""
        import numpy as np
        from onnx import numpy_helper

        node = self.nodes[product]
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in self.maker:
            return
        integers, scales = self.maker[node.input[2]].input[:2]
        held, steps = (numpy_helper.to_array(self.constants[name]).astype(np.float64) for name in (integers, scales))
        left = held if shift is None else held - shift / steps
        self._put(integers, to_int32(left / factor))
        self._put(scales, (steps * factor).astype(np.float32))

    def finish(self) -> None:
        """Add what int16 needs and take away what nobody reads any more."""
        import numpy as np
        from onnx import helper

        self._put(_ZERO, np.array(0, np.int16))
        if INT16_DOMAIN not in {entry.domain for entry in self.model.opset_import}:
            self.model.opset_import.append(helper.make_opsetid(INT16_DOMAIN, 1))
        used = {name for node in self.model.graph.node for name in node.input}
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)

    def _put(self, name: str, value: NDArray[np.generic]) -> None:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = self.model.graph.initializer.add()
        self.constants[name].CopyFrom(numpy_helper.from_array(value, name))
