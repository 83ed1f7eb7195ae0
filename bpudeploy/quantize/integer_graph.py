"""Run a QDQ graph node by node as a BPU would: products in integers, taps rounded, all else in float32.

Every Conv and MatMul that reads integers is computed in integers: exact sums, held in int32, brought to the scale of
the tap they end in by a fixed-point multiplication (Jacob et al., CVPR 2018, section 2.2). A tap that narrows another
one is brought over in the same way. All else is float32 by onnxruntime's own kernels: what is to be compared is the
integer arithmetic, not two libraries' Softmax.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bpudeploy.quantize.agreement import SumRange
from bpudeploy.quantize.integer_kernels import (
    SUM_HIGH,
    SUM_LOW,
    conv_sums,
    matmul_sums,
    quantize,
    requantize,
)
from bpudeploy.quantize.patches import Window
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.operators import VIEWS
from bpudeploy.spec.precision import Precision, Rounding

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]
    Signed = NDArray[np.signedinteger[Any]]

_SAME_SCALE = 1e-6
INFINITE = float("inf")


@dataclass(frozen=True, eq=False)
class Held:
    """Integers and their scale: one number, or one for each output channel (axis 0)."""

    integers: Signed
    scale: F32

    @property
    def real(self) -> F32:
        """The values in float32, as DequantizeLinear has them."""
        scale = self.scale.reshape(-1, *[1] * (self.integers.ndim - 1)) if self.scale.ndim else self.scale
        made: F32 = self.integers.astype("float32") * scale
        return made


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums that fit int32, what one is worth (it broadcasts), and what an activation cuts them to."""

    integers: I64
    scale: F64
    low: float = -INFINITE
    high: float = INFINITE

    def cut(self, low: float, high: float) -> Sums:
        """Return what a Relu or Clip makes of them."""
        return Sums(self.integers, self.scale, *(min(max(bound, low), high) for bound in (self.low, self.high)))

    @cached_property
    def real(self) -> F32:
        """The values, each rounded to float32 once."""
        made: F32 = (self.integers * self.scale).clip(self.low, self.high).astype("float32")
        return made


def _real(value: Any) -> NDArray[Any]:
    made: NDArray[Any] = value.real if isinstance(value, Held | Sums) else value
    return made


AtTap = Callable[[str, "Signed"], "Signed"]
"""Called with a tap's name and integers; returns those that its readers read."""


@dataclass(frozen=True, eq=False)
class GraphTap:
    """A tap: its scale, its integer type, the tensor of its integers, and the operator that makes what it rounds."""

    scale: F32
    dtype: np.dtype[Any]
    integers: str
    made_by: str


class IntegerGraph:
    """A QDQ graph, read once for any number of runs.

    ``taps`` are in the graph's order; ``products`` are the nodes that the record says are computed in integers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read ``model``.

        Raises:
            ValueError: a zero point is not 0, the two sides of a tap have different scales, or the record in the
                model's metadata speaks of other taps or scales than the graph has.
            KeyError: there is no record.
        """
        from onnx import numpy_helper

        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.constants: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.taps: dict[str, GraphTap] = {}
        self._model = model
        self._weights: dict[str, Held] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._floats: dict[str, Any] = {}
        maker = {name: node.op_type for node in model.graph.node for name in node.output}
        back = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                self._weights[node.output[0]] = self._weight(node)
                continue
            if node.op_type == "QuantizeLinear":
                self.taps[tap_name(node)] = self._tap(node, back[node.output[0]], maker.get(node.input[0], "input"))
            self._nodes.append(node)
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self.products = self._check(QuantizeRecord.read(model))

    def run(self, feeds: Mapping[str, F32], rounding: Rounding, at_tap: AtTap) -> Run:
        """Run the graph; ``at_tap`` sees each tap's integers. A tensor is freed when its last reader is done."""
        run = Run(self, rounding, at_tap, dict(self._weights) | dict(feeds))
        left = Counter(self._readers)
        for node in self._nodes:
            run.step(node)
            left.subtract(node.input)
            for name in {*node.input, *node.output}:
                if left[name] <= 0:
                    run.values.pop(name, None)
        return run

    def in_float(self, node: onnx.NodeProto, given: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Compute one node in onnxruntime from those of its inputs that are no constants."""
        session = self._floats.get(node.output[0])
        if session is None:
            types = {name: value.dtype for name, value in given.items()}
            session = self._floats[node.output[0]] = self._session(node, types)
        made: list[Any] = session.run(None, dict(given))
        return made

    def _session(self, node: onnx.NodeProto, types: Mapping[str, np.dtype[Any]]) -> Any:
        from onnx import helper, numpy_helper

        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), None)
            for name, dtype in types.items()
        ]
        used = [n for n in dict.fromkeys(node.input) if n in self.constants]
        held = [numpy_helper.from_array(self.constants[name], name) for name in used]
        made = [helper.make_empty_tensor_value_info(name) for name in node.output]
        alone = helper.make_model(
            helper.make_graph([node], "node", given, made, held),
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
        )
        return plain_session(alone, threads=1)

    def _tap(self, node: onnx.NodeProto, back: onnx.NodeProto, made_by: str) -> GraphTap:
        (scale, zero), (other, origin) = ([self.constants[name] for name in n.input[1:]] for n in (node, back))
        if zero.any() or origin.any():
            raise ValueError(f"{node.name} has a zero point that is not 0")
        if scale.shape or other.shape or scale != other:
            raise ValueError(f"{node.name} and {back.name} have not one scale")
        return GraphTap(scale, zero.dtype, node.output[0], made_by)

    def _weight(self, node: onnx.NodeProto) -> Held:
        integers, scale, zero = (self.constants[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if zero.any() or (scale.ndim and axis != 0):
            raise ValueError(f"{node.name} has a zero point, or scales that are not of its first axis")
        return Held(integers, scale)

    def _check(self, record: QuantizeRecord) -> frozenset[str]:
        told = {name: tap for name, tap in record.taps.items() if tap.precision is not Precision.FLOAT32}
        if told.keys() != self.taps.keys():
            raise ValueError(f"the record and the graph differ in taps: {sorted(told.keys() ^ self.taps.keys())}")
        for name, tap in told.items():
            own = self.taps[name]
            if own.dtype != tap.precision.value or abs(float(own.scale) / tap.scale - 1) > _SAME_SCALE:
                raise ValueError(f"{name} is {own.dtype} by {own.scale}, its record {tap.precision} by {tap.scale}")
        return frozenset(record.products)


@dataclass
class Run:
    """One run: the values that are still read, what came out, and the range of each product's sums."""

    graph: IntegerGraph
    rounding: Rounding
    at_tap: AtTap
    values: dict[str, Any]
    sums: dict[str, SumRange] = field(default_factory=dict)
    outputs: dict[str, F32] = field(default_factory=dict)

    def step(self, node: onnx.NodeProto) -> None:
        """Compute a node and keep what it makes."""
        for name, made in zip(node.output, self._made(node), strict=True):
            self.values[name] = made
            if name in self.graph.outputs:
                self.outputs[name] = _real(made)

    def _made(self, node: onnx.NodeProto) -> list[Any]:
        given: Any = self.values.get(node.input[0]) if node.input else None
        kind = node.op_type
        if kind == "QuantizeLinear":
            return [self._rounded(tap_name(node), given)]
        if kind == "DequantizeLinear":
            return [Held(given, self.graph.constants[node.input[1]])]
        if node.name in self.graph.products:
            return [self._product(node)]
        if kind in VIEWS and isinstance(given, Held) and not given.scale.ndim:
            return [Held(self._view(node, given.integers), given.scale)]
        if kind in ("Relu", "Clip") and isinstance(given, Sums):
            low = 0.0 if kind == "Relu" else self._bound(node, 1, -INFINITE)
            high = INFINITE if kind == "Relu" else self._bound(node, 2, INFINITE)
            return [given.cut(low, high)]
        names = [n for n in dict.fromkeys(node.input) if n and n not in self.graph.constants]
        return self.graph.in_float(node, {name: _real(self.values[name]) for name in names})

    def _bound(self, node: onnx.NodeProto, index: int, otherwise: float) -> float:
        name = node.input[index] if len(node.input) > index else ""
        return float(self.graph.constants[name].item()) if name else otherwise

    def _rounded(self, name: str, given: Any) -> Signed:
        import numpy as np

        tap = self.graph.taps[name]
        if isinstance(given, Held) and not given.scale.ndim:
            ratio = given.scale.astype("float64") / tap.scale
            made = requantize(given.integers.astype("int64"), ratio, self.rounding, tap.dtype)
        elif isinstance(given, Sums):
            made = requantize(given.integers, given.scale / tap.scale, self.rounding, tap.dtype)
            made = made.clip(*(self._at(bound, tap) for bound in (given.low, given.high)))
        else:
            real = _real(given)
            if np.isnan(real).any():
                raise ValueError(f"{name} is NaN, which has no integer")
            made = quantize(real, tap.scale, self.rounding, tap.dtype)
        return self.at_tap(name, made)

    def _at(self, bound: float, tap: GraphTap) -> Any:
        """Return the integer of an activation's bound: rounding keeps order, so cutting may come after it."""
        import numpy as np

        return quantize(np.array([bound], np.float32), tap.scale, self.rounding, tap.dtype)[0]

    def _view(self, node: onnx.NodeProto, integers: Signed) -> Signed:
        from onnx.reference import ReferenceEvaluator

        fixed = {name: self.graph.constants[name] for name in node.input[1:] if name}
        made: Signed = ReferenceEvaluator(node).run(None, {node.input[0]: integers} | fixed)[0]
        return made

    def _product(self, node: onnx.NodeProto) -> Sums:
        given: list[Any] = [self.values.get(name) for name in node.input if name]
        if not all(isinstance(value, Held) for value in given):
            raise ValueError(f"{node.name} is recorded as a product of integers, but reads floats")
        x, y = given[0], given[1]
        if x.scale.ndim or (y.scale.ndim and node.op_type != "Conv"):
            raise ValueError(f"{node.name} has a scale for each channel where it can have one only")
        scale = x.scale.astype("float64") * y.scale
        if node.op_type == "Conv":
            bias = given[2].integers if len(given) > 2 else None
            sums = conv_sums(x.integers, y.integers, bias, Window.of(node, y.integers.shape[2:]))
            scale = scale.reshape(1, -1, 1, 1)
        else:
            sums = matmul_sums(x.integers, y.integers)
        low, high = int(sums.min()), int(sums.max())
        over = int(((sums < SUM_LOW) | (sums > SUM_HIGH)).sum()) if low < SUM_LOW or high > SUM_HIGH else 0
        self.sums[node.name] = SumRange(elements=sums.size, peak=max(-low, high), overflows=over)
        return Sums(sums.clip(SUM_LOW, SUM_HIGH) if over else sums, scale)


def tap_name(node: onnx.NodeProto) -> str:
    """Return the tap of a QuantizeLinear."""
    return str(node.name.removesuffix(".quantize"))


def plain_session(model: onnx.ModelProto, threads: int) -> Any:
    """Open a session that runs ``model`` node by node, as written.

    onnxruntime's optimiser moves QuantizeLinear over views and fuses it, its DequantizeLinear and what is between
    them into integer kernels of its own, so that a tap is then not where the graph has it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
