"""Networks for tests: quantized test_vit, a chain of convolutions, and QDQ graphs built by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bpudeploy.host import open_session
from bpudeploy.quantize.bias_correction import bias_corrections
from bpudeploy.quantize.record import QuantizeRecord, Tap
from bpudeploy.quantize.scheme import Quantized, quantize_graph
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import Observer, QuantizeSpec, WeightRounding, WeightScale, WeightSpec

CPU = PrecisionRules()
X5 = PrecisionRules(matmul=(Precision.INT8,), elsewhere=Precision.INT16)
X3 = PrecisionRules(conv=(Precision.INT8,), matmul=(Precision.INT8,), elsewhere=Precision.INT8)
INT8 = QuantizeSpec(
    observer=Observer.MINMAX,
    centre=False,
    split=False,
    migrate=False,
    int16=(),
    weights=WeightSpec(scale=WeightScale.MAX, rounding=WeightRounding.NEAREST, correct_bias=False),
)
"""Every input of a product in int8, and no techniques."""


def make(rewritten: Any, images: Any, spec: QuantizeSpec = INT8, rules: PrecisionRules = CPU) -> Quantized:
    """Quantize a restructured network; the record is in the QDQ form."""
    made = quantize_graph(
        rewritten.model, rewritten.keep_float, (), rules, spec, lambda i: images[i], len(images), lambda done: None
    )
    made.record.write(made.qdq)
    return made


def corrections_of(made: Quantized, images: Any) -> dict[str, Any]:
    """Return the bias corrections for int8 inputs."""
    return bias_corrections(made.prepared, made.record, lambda i: images[i], len(images), lambda done: None)


def run(model: onnx.ModelProto, image: Any) -> Any:
    """Return the first output."""
    session = open_session(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def constant(model: onnx.ModelProto, name: str) -> Any:
    """Return an initializer."""
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


class Chain:
    """A 3x3 Conv, a Relu and a 1x1 Conv without bias, whose input channels have very different ranges.

    ``branch``: a Sigmoid also reads the Relu.
    """

    keep_float: tuple[str, ...] = ()

    def __init__(self, branch: bool = False) -> None:
        rng = np.random.default_rng(0)
        first = rng.standard_normal((8, 3, 3, 3)) * np.logspace(-2, 1, 8).reshape(-1, 1, 1, 1)
        second = rng.standard_normal((4, 8, 1, 1)) / np.logspace(-2, 1, 8).reshape(1, -1, 1, 1)
        weights = {"first.w": first, "second.w": second, "first.b": np.linspace(-0.5, 0.5, 8)}
        nodes = [
            helper.make_node("Conv", ["pixels", "first.w", "first.b"], ["a"], "first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"], "relu"),
            helper.make_node("Conv", ["b", "second.w"], ["scores"], "second"),
        ]
        if branch:
            nodes.append(helper.make_node("Sigmoid", ["b"], ["c"], "sigmoid"))
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("pixels", [1, 3, 16, 16]), ("scores", [1, 4, 16, 16]), ("c", [1, 8, 16, 16]))
        ]
        constants = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1 : 3 if branch else 2], constants)
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
        self.images = rng.standard_normal((6, 1, 3, 16, 16)).astype(np.float32)


class QdqBuilder:
    """Builds a QDQ graph by hand: each method appends nodes and returns the tensor to read."""

    output_shape: tuple[int, ...] | None = None

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.inputs = inputs
        self.nodes: list[Any] = []
        self.products: list[str] = []
        self.constants: dict[str, Any] = {}
        self.taps: dict[str, Tap] = {}

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = value
        return name

    def op(self, kind: str, inputs: list[str], out: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], name or out, **attributes))
        return out

    def tap(self, tensor: str, scale: float, precision: Precision = Precision.INT8, name: str = "") -> str:
        kind, name = precision.value, name or tensor
        self.taps[name] = Tap(precision=precision, threshold=scale * precision.levels, peak=scale * precision.levels)
        fixed = [
            self.constant(f"{name}.scale", np.float32(self.taps[name].scale)),
            self.constant(f"zero.{kind}", np.zeros((), kind)),
        ]
        domain = "com.microsoft" if precision is Precision.INT16 else ""
        held, rounded = f"{name}.{kind}", f"{name}.rounded"
        for kind, inputs, out, what in (
            ("QuantizeLinear", [tensor, *fixed], held, "quantize"),
            ("DequantizeLinear", [held, *fixed], rounded, "dequantize"),
        ):
            self.nodes.append(helper.make_node(kind, inputs, [out], f"{name}.{what}", domain=domain))
        return rounded

    def weight(self, name: str, integers: Any, scales: Any) -> str:
        fixed = [
            self.constant(f"{name}.quantized", integers),
            self.constant(f"{name}.scale", scales.astype(np.float32)),
            self.constant(f"{name}.zero", np.zeros(len(scales), integers.dtype)),
        ]
        return self.op("DequantizeLinear", fixed, f"{name}.rounded", axis=0)

    def conv(self, x: str, scale: float, integers: Any, scales: Any, bias: Any, out: str, **attributes: Any) -> str:
        inputs = [x, self.weight(f"{out}.weight", integers, scales)]
        if bias is not None:
            inputs.append(self.weight(f"{out}.bias", bias, scales * scale))
        self.products.append(out)
        return self.op("Conv", inputs, out, **attributes)

    def matmul(self, a: str, b: str, out: str) -> str:
        self.products.append(out)
        return self.op("MatMul", [a, b], out)

    def model(self, *outputs: str) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "qdq",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.output_shape) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        record = QuantizeRecord(observer="mse", images=4, taps=self.taps, products=tuple(self.products))
        record.write(made)
        return made
