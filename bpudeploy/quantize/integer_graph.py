"""Run a QDQ graph node by node as a BPU would: products in integers, rounding at taps, everything else in float32.

Every Conv and MatMul with integer inputs is computed as exact sums, saturated to int32, and requantized to the scale of
the next tap by fixed-point multiplication (Jacob et al., CVPR 2018, section 2.2). A tap that narrows another tap is
requantized in the same way. Everything else uses onnxruntime's float32 kernels: the comparison is about the integer
arithmetic, not about two implementations of Softmax.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bpudeploy.onnxmodel import attribute, constants_of, node_model
from bpudeploy.quantize.agreement import SumRange
from bpudeploy.quantize.arrays import F32, F64, I64, Signed
from bpudeploy.quantize.integer_kernels import SUM_HIGH, SUM_LOW, conv_sums, matmul_sums, quantize, requantize
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.window import Window
from bpudeploy.spec.operators import VIEWS
from bpudeploy.spec.precision import Precision, Rounding

_SCALE_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Integers and their scale: one number, or one per output channel (axis 0)."""

    integers: Signed
    scale: F32

    @property
    def real(self) -> F32:
        """The values in float32, as DequantizeLinear computes them."""
        scale = self.scale.reshape(-1, *[1] * (self.integers.ndim - 1)) if self.scale.ndim else self.scale
        values: F32 = self.integers.astype(np.float32) * scale
        return values


@dataclass(frozen=True, eq=False)
class Accumulators:
    """Sums that fit int32, the (broadcast) value of one unit, and the range an activation clips the values to."""

    integers: I64
    scale: F64
    low: float = -math.inf
    high: float = math.inf

    def clip(self, low: float, high: float) -> Accumulators:
        """Apply a Relu or Clip."""
        return Accumulators(self.integers, self.scale, *(min(max(bound, low), high) for bound in (self.low, self.high)))

    @cached_property
    def real(self) -> F32:
        """The values, each rounded to float32 once."""
        values: F32 = (self.integers * self.scale).clip(self.low, self.high).astype(np.float32)
        return values


def _real(value: Any) -> NDArray[Any]:
    real: NDArray[Any] = value.real if isinstance(value, QuantizedTensor | Accumulators) else value
    return real


@dataclass(frozen=True, eq=False)
class GraphTap:
    """A tap: its scale, its integer type, the tensor of its integers, and the operator whose output it rounds."""

    scale: F32
    dtype: np.dtype[Any]
    integers: str
    made_by: str


class IntegerGraph:
    """A QDQ graph, parsed once for any number of runs.

    ``taps`` are in graph order; ``products`` are the nodes that the record lists as computed in integers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Parse ``model``.

        Raises:
            ValueError: a zero point is not 0, the two nodes of a tap have different scales, or the taps or scales
                differ from those in the model's record.
            KeyError: there is no record.
        """
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.constants: dict[str, NDArray[Any]] = constants_of(model.graph)
        self.taps: dict[str, GraphTap] = {}
        self._model = model
        self._weights: dict[str, QuantizedTensor] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._float_sessions: dict[str, Any] = {}
        producers = {name: node.op_type for node in model.graph.node for name in node.output}
        back = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                self._weights[node.output[0]] = self._weight(node)
                continue
            if node.op_type == "QuantizeLinear":
                self.taps[_tap_name(node)] = self._tap(
                    node, back[node.output[0]], producers.get(node.input[0], "input")
                )
            self._nodes.append(node)
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self.products = self._check(QuantizeRecord.read(model))

    def run(
        self, feeds: Mapping[str, F32], rounding: Rounding, forced: Mapping[str, Signed] | None = None
    ) -> IntegerRun:
        """Run the graph; the readers of a tap read its ``forced`` integers, or its own. Frees tensors after use."""
        run = IntegerRun(self, rounding, forced or {}, dict(self._weights) | dict(feeds))
        left = Counter(self._readers)
        for node in self._nodes:
            run.step(node)
            left.subtract(node.input)
            for name in {*node.input, *node.output}:
                if left[name] <= 0:
                    run.values.pop(name, None)
        return run

    def in_float(self, node: onnx.NodeProto, values: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Compute one node in onnxruntime from its non-constant inputs."""
        session = self._float_sessions.get(node.output[0])
        if session is None:
            types = {name: value.dtype for name, value in values.items()}
            constants = {name: self.constants[name] for name in node.input if name in self.constants}
            single = node_model(node, types, self._model.opset_import, constants)
            single.ir_version = self._model.ir_version
            session = self._float_sessions[node.output[0]] = unoptimized_session(single, threads=1)
        outputs: list[Any] = session.run(None, dict(values))
        return outputs

    def _tap(self, node: onnx.NodeProto, back: onnx.NodeProto, made_by: str) -> GraphTap:
        (scale, zero), (other, origin) = ([self.constants[name] for name in n.input[1:]] for n in (node, back))
        if zero.any() or origin.any():
            raise ValueError(f"{node.name} has a nonzero zero point")
        if scale.shape or other.shape or scale != other:
            raise ValueError(f"{node.name} and {back.name} do not have the same scalar scale")
        return GraphTap(scale, zero.dtype, node.output[0], made_by)

    def _weight(self, node: onnx.NodeProto) -> QuantizedTensor:
        integers, scale, zero = (self.constants[name] for name in node.input)
        if zero.any() or (scale.ndim and attribute(node, "axis", 1) != 0):
            raise ValueError(f"{node.name} has a nonzero zero point, or scales that are not along its first axis")
        return QuantizedTensor(integers, scale)

    def _check(self, record: QuantizeRecord) -> frozenset[str]:
        recorded = {name: tap for name, tap in record.taps.items() if tap.precision is not Precision.FLOAT32}
        if recorded.keys() != self.taps.keys():
            raise ValueError(f"the record and the graph differ in taps: {sorted(recorded.keys() ^ self.taps.keys())}")
        for name, tap in recorded.items():
            own = self.taps[name]
            if own.dtype != tap.precision.value or abs(float(own.scale) / tap.scale - 1) > _SCALE_TOLERANCE:
                raise ValueError(
                    f"{name} is {own.dtype} with scale {own.scale}, but its record says {tap.precision} with scale "
                    f"{tap.scale}"
                )
        return frozenset(record.products)


@dataclass
class IntegerRun:
    """One run: the values still to be read, each tap's own integers, each product's range of sums, the outputs."""

    graph: IntegerGraph
    rounding: Rounding
    forced: Mapping[str, Signed]
    values: dict[str, Any]
    taps: dict[str, Signed] = field(default_factory=dict)
    sums: dict[str, SumRange] = field(default_factory=dict)
    outputs: dict[str, F32] = field(default_factory=dict)

    def step(self, node: onnx.NodeProto) -> None:
        """Compute a node and keep its outputs."""
        for name, value in zip(node.output, self._compute(node), strict=True):
            self.values[name] = value
            if name in self.graph.outputs:
                self.outputs[name] = _real(value)

    def _compute(self, node: onnx.NodeProto) -> list[Any]:
        first: Any = self.values.get(node.input[0]) if node.input else None
        kind = node.op_type
        if kind == "QuantizeLinear":
            return [self._rounded(_tap_name(node), first)]
        if kind == "DequantizeLinear":
            return [QuantizedTensor(first, self.graph.constants[node.input[1]])]
        if node.name in self.graph.products:
            return [self._product(node)]
        if kind in VIEWS and isinstance(first, QuantizedTensor) and not first.scale.ndim:
            return [QuantizedTensor(self._view(node, first.integers), first.scale)]
        if kind == "Concat" and (parts := self._same_scale(node)):
            axis = attribute(node, "axis", 0)
            return [QuantizedTensor(np.concatenate([p.integers for p in parts], axis=axis), parts[0].scale)]
        if kind == "MaxPool" and isinstance(first, QuantizedTensor) and not first.scale.ndim:
            (largest,) = self.graph.in_float(node, {node.input[0]: first.integers.astype(np.float32)})
            return [QuantizedTensor(largest.astype(first.integers.dtype), first.scale)]
        if kind in ("Relu", "Clip") and isinstance(first, Accumulators):
            low = 0.0 if kind == "Relu" else self._bound(node, 1, -math.inf)
            high = math.inf if kind == "Relu" else self._bound(node, 2, math.inf)
            return [first.clip(low, high)]
        names = [n for n in dict.fromkeys(node.input) if n and n not in self.graph.constants]
        return self.graph.in_float(node, {name: _real(self.values[name]) for name in names})

    def _same_scale(self, node: onnx.NodeProto) -> list[QuantizedTensor]:
        """Return the inputs of a node if all are integers of one scalar scale, or zeros, or nothing."""
        inputs = {name: self.values.get(name) for name in node.input}
        found = {n: v for n, v in inputs.items() if isinstance(v, QuantizedTensor) and not v.scale.ndim}
        zeros = {n: c for n in inputs if (c := self.graph.constants.get(n)) is not None and not c.any()}
        if len(found) + len(zeros) < len(inputs) or len({float(value.scale) for value in found.values()}) != 1:
            return []
        some = next(iter(found.values()))
        padding = {n: QuantizedTensor(c.astype(some.integers.dtype), some.scale) for n, c in zeros.items()}
        return [{**found, **padding}[name] for name in node.input]

    def _bound(self, node: onnx.NodeProto, index: int, default: float) -> float:
        name = node.input[index] if len(node.input) > index else ""
        return float(self.graph.constants[name].item()) if name else default

    def _rounded(self, name: str, value: Any) -> Signed:
        tap = self.graph.taps[name]
        if isinstance(value, QuantizedTensor) and not value.scale.ndim:
            ratio = value.scale.astype(np.float64) / tap.scale
            rounded = requantize(value.integers.astype(np.int64), ratio, self.rounding, tap.dtype)
        elif isinstance(value, Accumulators):
            rounded = requantize(value.integers, value.scale / tap.scale, self.rounding, tap.dtype)
            # Rounding is monotonic, so the activation may clip afterwards.
            bounds = quantize(np.array([value.low, value.high], np.float32), tap.scale, self.rounding, tap.dtype)
            rounded = rounded.clip(*bounds)
        else:
            real = _real(value)
            if np.isnan(real).any():
                raise ValueError(f"{name} is NaN and cannot be rounded to an integer")
            rounded = quantize(real, tap.scale, self.rounding, tap.dtype)
        self.taps[name] = rounded
        return self.forced.get(name, rounded)

    def _view(self, node: onnx.NodeProto, integers: Signed) -> Signed:
        from onnx.reference import ReferenceEvaluator

        fixed = {name: self.graph.constants[name] for name in node.input[1:] if name}
        (viewed,) = ReferenceEvaluator(node).run(None, {node.input[0]: integers} | fixed)
        return np.asarray(viewed)

    def _product(self, node: onnx.NodeProto) -> Accumulators:
        inputs: list[Any] = [self.values.get(name) for name in node.input if name]
        if not all(isinstance(value, QuantizedTensor) for value in inputs):
            raise ValueError(f"{node.name} is recorded as an integer product, but reads floats")
        x, y, *bias = inputs
        if x.scale.ndim or (y.scale.ndim and node.op_type != "Conv"):
            raise ValueError(f"{node.name} has per-channel scales, but allows a single scale only")
        scale = x.scale.astype(np.float64) * y.scale
        if node.op_type == "Conv":
            window = Window.of(node, y.integers.shape[2:])
            sums = conv_sums(x.integers, y.integers, bias[0].integers if bias else None, window)
            scale = scale.reshape(1, -1, 1, 1)
        else:
            sums = matmul_sums(x.integers, y.integers)
        low, high = int(sums.min()), int(sums.max())
        over = int(((sums < SUM_LOW) | (sums > SUM_HIGH)).sum()) if low < SUM_LOW or high > SUM_HIGH else 0
        self.sums[node.name] = SumRange(elements=sums.size, peak=max(-low, high), overflows=over)
        return Accumulators(sums.clip(SUM_LOW, SUM_HIGH) if over else sums, scale)


def _tap_name(node: onnx.NodeProto) -> str:
    """Return the tap of a QuantizeLinear."""
    return str(node.name.removesuffix(".quantize"))


def unoptimized_session(model: onnx.ModelProto, threads: int) -> Any:
    """Open a session that runs ``model`` node by node, as written.

    onnxruntime's optimizer moves QuantizeLinear across views, and fuses QuantizeLinear, DequantizeLinear and the nodes
    between them into its own integer kernels, so taps would not stay where the graph has them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
