"""The QDQ form: QuantizeLinear and DequantizeLinear where an accelerator rounds, integers where it has weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bpudeploy.quantize.record import Tap
from bpudeploy.quantize.taps import Place
from bpudeploy.quantize.weights import Rounded
from bpudeploy.spec.operators import VIEWS
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

OPSET = 13
"""The first opset whose DequantizeLinear has an axis, which per-channel weights need."""
INT16_DOMAIN = "com.microsoft"
"""Where onnxruntime has QuantizeLinear to int16 below opset 21, which the graph's other operators do not have."""
_LARGEST = 2**31 - 1


def to_int32(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return ``values`` rounded, and held at the ends of int32."""
    import numpy as np

    return np.clip(np.rint(values), -_LARGEST, _LARGEST).astype(np.int32)


def to_qdq(
    model: onnx.ModelProto, places: Sequence[Place], taps: Mapping[str, Tap], weights: Mapping[str, Rounded]
) -> onnx.ModelProto:
    """Return a copy of ``model`` (opset 11) in QDQ form (opset 13); ranks and node names stay.

    The tap T of tensor X becomes ``T.quantize``, giving ``T.int8`` (or ``T.int16``), and ``T.dequantize``, giving
    ``T.rounded``, which its readers read. Each Conv in ``weights`` has int8 weights, one scale an output channel,
    and an int32 bias whose scale is the product of the weights' and the input's. None of the operators of a
    restructured graph changed its meaning on 4-D tensors between 11 and 13 (Softmax is always on the last axis).
    """
    import onnx
    from onnx import helper

    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.opset_import[:]
    out.opset_import.append(helper.make_opsetid("", OPSET))
    if any(tap.precision is Precision.INT16 for tap in taps.values()):
        out.opset_import.append(helper.make_opsetid(INT16_DOMAIN, 1))
    writer = _Writer(model, taps)
    for name in [value.name for value in model.graph.input]:
        writer.round_all(name, places)
    for node in model.graph.node:
        writer.copy(node, weights.get(node.name))
        for name in node.output:
            writer.round_all(name, places)
    del out.graph.node[:]
    out.graph.node.extend(writer.nodes)
    used = {name for node in writer.nodes for name in node.input}
    del out.graph.initializer[:]
    out.graph.initializer.extend(t for t in writer.constants.values() if t.name in used)
    onnx.checker.check_model(out)
    return out


class _Writer:
    """The new graph's nodes and constants.

    ``read`` maps (reader, tensor) to the rounded form that it reads, ``held`` a rounded tensor or a view of it to its
    tap.
    """

    def __init__(self, model: onnx.ModelProto, taps: Mapping[str, Tap]) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.taps = taps
        self.read: dict[tuple[str, str], str] = {}
        self.held: dict[str, Tap] = {}

    def round_all(self, tensor: str, places: Sequence[Place]) -> None:
        """Append the roundings of ``tensor``: the wide one first, for what narrows it."""
        given = tensor
        for place in (p for p in places if p.tensor == tensor):
            rounded = self._pair(place.name, given, self.taps[place.name])
            for reader in place.readers:
                self.read[reader, tensor] = rounded
            given = rounded

    def _pair(self, name: str, given: str, tap: Tap) -> str:
        import numpy as np
        from onnx import helper

        kind, dtype = tap.precision.value, np.dtype(tap.precision.value)
        scale = self._store(f"{name}.scale", np.array(tap.scale, dtype=np.float32))
        zero = self._store(f"zero.{kind}", np.array(0, dtype=dtype))
        domain = INT16_DOMAIN if tap.precision is Precision.INT16 else ""
        integers, rounded = f"{name}.{kind}", f"{name}.rounded"
        self.nodes += [
            helper.make_node("QuantizeLinear", [given, scale, zero], [integers], f"{name}.quantize", domain=domain),
            helper.make_node(
                "DequantizeLinear", [integers, scale, zero], [rounded], f"{name}.dequantize", domain=domain
            ),
        ]
        self.held[rounded] = tap
        return rounded

    def copy(self, node: onnx.NodeProto, weight: Rounded | None) -> None:
        """Append ``node``, reading what is rounded for it; a Conv with ``weight`` gets its integers."""
        import onnx

        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [self.read.get((node.name, name), name) for name in node.input]
        if weight is not None:
            inputs = [made.input[0], self._constant(f"{node.name}.weight", weight.integers, weight.scales)]
            if weight.bias is not None:
                scales = weight.scales * self.held[made.input[0]].scale
                inputs.append(self._constant(f"{node.name}.bias", to_int32(weight.bias / scales), scales))
            made.input[:] = inputs
        elif node.op_type in VIEWS and made.input[0] in self.held:
            self.held[made.output[0]] = self.held[made.input[0]]
        self.nodes.append(made)

    def _constant(self, name: str, integers: NDArray[np.generic], scales: NDArray[np.float64]) -> str:
        import numpy as np
        from onnx import helper

        inputs = [
            self._store(f"{name}.quantized", integers),
            self._store(f"{name}.scale", scales.astype(np.float32)),
            self._store(f"{name}.zero", np.zeros(len(scales), dtype=integers.dtype)),
        ]
        out = f"{name}.rounded"
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [out], name=f"{name}.dequantize", axis=0))
        return out

    def _store(self, name: str, value: NDArray[np.generic]) -> str:
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(value, name)
        return name
