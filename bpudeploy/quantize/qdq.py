"""The QDQ form: QuantizeLinear and DequantizeLinear around what a BPU computes in int8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bpudeploy.quantize.observer import LEVELS
from bpudeploy.quantize.taps import Taps

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

OPSET = 13
"""The first opset whose DequantizeLinear has an axis, which per-channel weights need."""
_STEPS = 20


def to_qdq(model: onnx.ModelProto, taps: Taps, thresholds: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy of ``model`` (opset 11) in QDQ form (opset 13); ranks and node names stay.

    Activations are int8, symmetric, one scale a tensor: threshold / 127, zero point 0. Conv weights are
    int8, symmetric, one scale an output channel. Biases are int32 with the product of both scales.
    None of the operators of a restructured graph changed its meaning on 4-D tensors between 11 and 13
    (Softmax is always on the last axis here).
    """
    import onnx

    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.opset_import[:]
    out.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    writer = _Writer({tensor.name: tensor for tensor in model.graph.initializer})
    quantized = set(taps.nodes)
    for name, source in taps.root.items():
        if any(value.name == name for value in model.graph.input):
            writer.pair(name, thresholds[source])
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name in quantized:
            writer.integer_node(copy, thresholds, taps)
        else:
            # A reader in float of a tensor that is int8 in the hardware sees what the hardware sees.
            copy.input[:] = [writer.rounded.get(name, name) for name in node.input]
        writer.nodes.append(copy)
        for name in node.output:
            if name in taps.root:
                writer.pair(name, thresholds[taps.root[name]])
    del out.graph.node[:]
    out.graph.node.extend(writer.nodes)
    used = {name for node in writer.nodes for name in node.input}
    del out.graph.initializer[:]
    out.graph.initializer.extend(t for t in writer.constants.values() if t.name in used)
    onnx.checker.check_model(out, full_check=True)
    return out


class _Writer:
    """The new graph's nodes and constants; ``rounded`` maps a tensor to its dequantized self."""

    def __init__(self, constants: dict[str, onnx.TensorProto]) -> None:
        self.constants = constants
        self.nodes: list[onnx.NodeProto] = []
        self.rounded: dict[str, str] = {}

    def pair(self, name: str, limit: float) -> None:
        """Append the Q and DQ of an activation."""
        import numpy as np
        from onnx import helper

        scale = self._store(f"{name}.scale", np.array(limit / LEVELS, dtype=np.float32))
        zero = self._store("zero.int8", np.array(0, dtype=np.int8))
        q, dq = f"{name}.int8", f"{name}.rounded"
        self.nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [q], name=f"{name}.quantize"))
        self.nodes.append(helper.make_node("DequantizeLinear", [q, scale, zero], [dq], name=f"{name}.dequantize"))
        self.rounded[name] = dq

    def integer_node(self, node: onnx.NodeProto, thresholds: Mapping[str, float], taps: Taps) -> None:
        """Rewire a Conv or MatMul to rounded inputs and int8 constants."""
        given = node.input[0]
        inputs = [self.rounded.get(name, name) for name in node.input]
        if node.op_type == "Conv":
            inputs[1], scales = self._weight(node.input[1])
            if len(inputs) > 2:
                inputs[2] = self._bias(node.input[2], scales * (thresholds[taps.root[given]] / LEVELS))
        node.input[:] = inputs

    def _weight(self, name: str) -> tuple[str, NDArray[np.float64]]:
        import numpy as np
        from onnx import numpy_helper

        weight = numpy_helper.to_array(self.constants[name]).astype(np.float64)
        scales = weight_scales(weight.reshape(len(weight), -1))
        integers = np.clip(np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))), -LEVELS, LEVELS)
        return self._constant(name, integers.astype(np.int8), scales), scales

    def _bias(self, name: str, scales: NDArray[np.float64]) -> str:
        import numpy as np
        from onnx import numpy_helper

        bias = numpy_helper.to_array(self.constants[name]).astype(np.float64)
        limit = 2**31 - 1
        return self._constant(name, np.clip(np.rint(bias / scales), -limit, limit).astype(np.int32), scales)

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


def weight_scales(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the int8 scale of each row of (out, in): of 0.5 to 1.0 of max |w| / 127, the one with least squares.

    A row of zeros gets scale 1.
    """
    import numpy as np

    largest: NDArray[np.float64] = np.abs(rows).max(axis=1) / LEVELS
    largest[largest == 0.0] = 1.0
    best, chosen = np.full(len(rows), np.inf), largest.copy()
    for share in np.linspace(1.0, 0.5, _STEPS):
        scales = (largest * share)[:, None]
        error = ((rows - np.clip(np.rint(rows / scales), -LEVELS, LEVELS) * scales) ** 2).sum(axis=1)
        better = error < best
        best[better], chosen[better] = error[better], scales[better, 0]
    return chosen
