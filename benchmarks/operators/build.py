"""One operator between two convolutions, as an ONNX network of fixed shapes and random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

Shape = tuple[int, ...]
OP = "op"
"""The name of the node under test."""


class NetworkBuilder:
    """A network under construction. ``around``: an operator between the convolutions and the one under test."""

    def __init__(self, around: str | None, opset: int) -> None:
        self.around, self.opset = around, opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def const(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, *shape: int) -> Any:
        return (self._rng.random(shape) + 0.5).astype(np.float32)

    def node(self, op: str, inputs: Sequence[str], name: str | None = None, outs: int = 1, **attributes: Any) -> Any:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        made = [f"{name}_o{j}" for j in range(outs)]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=name, **attributes))
        return made if outs > 1 else made[0]

    def conv(self, x: str, inner: int, outer: int, name: str) -> str:
        weight = self._rng.normal(0, 0.1, (outer, inner, 1, 1)).astype(np.float32)
        bias = self._rng.normal(0, 0.1, outer).astype(np.float32)
        made: str = self.node("Conv", [x, self.const(weight), self.const(bias)], name, kernel_shape=[1, 1])
        return made

    def feature(self, shape: Shape) -> str:
        """Return a feature map of ``shape``, computed by a convolution from its own input."""
        i = len(self.inputs)
        if len(shape) == 4 and shape[0] == 1:
            c, h, w = shape[1:]
        elif len(shape) == 1:
            c, h, w = shape[0], 1, 1
        elif len(shape) == 2:
            c, h, w = shape[0], 1, shape[1]
        else:
            h, w = shape[-2:]
            c = prod(shape) // (h * w)
        self.inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, 3, h, w]))
        y = self.conv(f"x{i}", 3, c, f"before{i}")
        if shape != (1, c, h, w):
            y = self.node("Reshape", [y, self.const(np.array(shape, np.int64))], f"into{i}")
        return self.node(self.around, [y], f"first{i}") if self.around else y

    def finish(self, outputs: Sequence[str], after: bool) -> onnx.ModelProto:
        """Return the network; ``after``: convolutions read its outputs.

        Raises:
            ValueError: onnx cannot infer the shape of an output.
        """
        ends = [self._after(o, j) if after else self._end(o) for j, o in enumerate(outputs)]
        model = self._model([helper.make_tensor_value_info(*end) for end in ends])
        onnx.checker.check_model(model)
        return shape_inference.infer_shapes(model, data_prop=True)

    def _model(self, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", self.inputs, list(outputs), self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=7)

    def _end(self, output: str) -> tuple[str, int, Shape]:
        model = shape_inference.infer_shapes(
            self._model([helper.make_empty_tensor_value_info(output)]),
            data_prop=True,  # type: ignore[attr-defined, unused-ignore]
        )
        for value in (*model.graph.value_info, *model.graph.output):
            tensor = value.type.tensor_type
            dims = tensor.shape.dim
            if value.name == output and tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims):
                return output, tensor.elem_type, tuple(d.dim_value for d in dims)
        raise ValueError(f"no shape of {output}")

    def _after(self, output: str, j: int) -> tuple[str, int, Shape]:
        output, kind, shape = self._end(output)
        if kind != TensorProto.FLOAT:
            output = self.node("Cast", [output], to=TensorProto.FLOAT)
        elif self.around:
            output = self.node(self.around, [output], f"last{j}")
        if len(shape) != 4 or shape[0] != 1:
            n = prod(shape)
            if len(shape) > 2:
                shape = (1, n // (shape[-2] * shape[-1]), shape[-2], shape[-1])
            else:
                shape = (1, shape[0], 1, shape[1]) if len(shape) == 2 else (1, n, 1, 1)
            output = self.node("Reshape", [output, self.const(np.array(shape, np.int64))], f"outof{j}")
        return self.conv(output, shape[1], 8, f"after{j}"), TensorProto.FLOAT, (1, 8, *shape[2:])


Build = Callable[[NetworkBuilder], Any]


class NetworkSet:
    """Networks by unique name; the first of a name is kept."""

    def __init__(self, around: str | None) -> None:
        self.around = around
        self.made: dict[str, onnx.ModelProto] = {}

    def add(self, name: str, build: Build, opset: int = 11, after: bool = True) -> None:
        net = NetworkBuilder(self.around, opset)
        outputs = build(net)
        self.made.setdefault(name, net.finish(outputs if isinstance(outputs, list) else [outputs], after))

    def unary(
        self,
        name: str,
        op: str,
        shape: Shape,
        constants: Sequence[Any] = (),
        *,
        opset: int = 11,
        outs: int = 1,
        left: bool = False,
        after: bool = True,
        **attributes: Any,
    ) -> None:
        """Add an operator on one feature map and constants; ``left``: the constants come first."""

        def build(net: NetworkBuilder) -> Any:
            x = net.feature(shape)
            given = [net.const(c) for c in constants]
            return net.node(op, [*given, x] if left else [x, *given], OP, outs, **attributes)

        self.add(f"{op} {name} {format_shape(shape)}", build, opset, after)

    def binary(self, name: str, op: str, a: Shape, b: Shape, **attributes: Any) -> None:
        """Add an operator on two feature maps."""
        self.add(
            f"{op} {name} {format_shape(a)} {format_shape(b)}",
            lambda net: net.node(op, [net.feature(a), net.feature(b)], OP, **attributes),
        )


def format_shape(shape: Shape) -> str:
    """Return ``1x3x8x8``."""
    return "x".join(map(str, shape))


def f32(value: Any) -> Any:
    """Return float32."""
    return np.asarray(value, np.float32)


def i64(*values: int) -> Any:
    """Return int64, 1-D."""
    return np.array(values, np.int64)


def positive(*shape: int) -> Any:
    """Return values from 0.5 to 1.5."""
    return (np.random.default_rng(prod(shape)).random(shape) + 0.5).astype(np.float32)


def small(*shape: int) -> Any:
    """Return weights around 0."""
    return np.random.default_rng(prod(shape)).normal(0, 0.05, shape).astype(np.float32)
