"""Export a quantized model's precisions for the vendor compilers: node_info (hb_mapper), quant_config (hb_compile).

Tested with hb_mapper 1.24.3 (tests/backends/horizon/test_real.py). Not tested with hb_compile.

Documented (github.com/D-Robotics/rdk_doc, ptq_process): the keys and values of node_info; that it is for bayes and
bayes-e only; that ``InputType`` applies to all inputs and ``OutputType`` to all outputs; that the tool falls back to
int8, with a log message, if int16 is not supported. Documented (github.com/HorizonRobotics/OE-Skills): the keys and
values of quant_config; ``node_config`` takes precedence over ``op_config``, and that over ``model_config``.

Observed in hb_mapper 1.24.3: nodes keep their names, except that a fused node has the name of its last node, and
node_info of the others is silently ignored. MatMul has no int16 on bayes and bayes-e. X3 accepts node_info too, but
only int8 and ON, so nothing is written for it.

Assumed: the weights of a Conv stay int8 unless its second input is set; ``qtype: int16`` of a MatMul leaves one factor
in int8, as published files that name both inputs suggest.

The model must be quantized for the given march. On a BPU march every tensor is rounded except at CPU nodes, so a float
tensor that enters the BPU was computed on the CPU.

Both tools run their own calibration: they accept precisions, but no activation scales. The scale file is for other
tools.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError, UsageError
from bpudeploy.onnxmodel import attribute
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.taps import PRODUCTS, ROUNDING, GraphIndex, feeds_activations_only
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.operators import VIEWS
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import onnx

HB_MAPPER = frozenset({March.BAYES, March.BAYES_E})
"""Marches whose compiler takes node_info."""
HB_COMPILE = frozenset({March.NASH_E, March.NASH_M, March.NASH_P})
"""Marches whose compiler takes quant_config."""
_INTEGERS = dict.fromkeys((*HB_MAPPER, *HB_COMPILE), (Precision.INT8, Precision.INT16)) | {
    March.BERNOULLI2: (Precision.INT8,)
}
_NAMED = PRODUCTS | {"Concat", "Reshape", "Slice", "Transpose", "Softmax"}
"""What node_info names between int8 neighbours too: hb_mapper makes moves int16, with the product after them, and puts
Softmax on the CPU."""
_WIDTH = {Precision.INT8: 0, Precision.INT16: 1, Precision.FLOAT32: 2}


class ActivationScale(Frozen):
    """One rounding: integer = round(x / scale), clipped to ±127 (int8) or ±32767 (int16)."""

    tap: str
    tensor: str
    """The tensor of the float graph that is rounded."""
    node: str | None
    """The node that produces it; null for the network's input."""
    precision: Precision
    threshold: float
    scale: float


class WeightScales(Frozen):
    """An int8 constant: the scale of each slice along ``axis``."""

    tensor: str
    nodes: tuple[str, ...]
    """The nodes that read it."""
    axis: int
    scales: tuple[float, ...]


class ScaleFile(Frozen):
    """Every scale of a quantized model. The scale of an int32 bias is the product of the weight and input scales."""

    version: int = 1
    observer: str
    images: int
    activations: tuple[ActivationScale, ...]
    weights: tuple[WeightScales, ...]


class NodePrecision(Frozen):
    """The precisions of one node of the float graph; ``inputs`` by input number, without constants.

    ``output``: the widest precision in which a node reads the output; float32 if it is only a network output.
    """

    name: str
    op: str
    inputs: dict[int, Precision]
    output: Precision
    in_float: bool
    """It computes in float, on the CPU if the accelerator has no float."""


def scale_file(model: onnx.ModelProto) -> ScaleFile:
    """Return every scale that the QDQ ``model`` uses.

    Raises:
        StageError: a tap of the record has no QuantizeLinear.
    """
    import onnx

    record, graph = _record(model), _QdqIndex(model)
    pairs = {n.name.removesuffix(".quantize"): n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    activations = []
    for name, tap in record.taps.items():
        if name not in pairs:
            raise StageError(f"{name} is recorded as rounded, but has no QuantizeLinear", hint="quantize it again")
        tensor = graph.unrounded(pairs[name].input[0])
        producer = graph.producers.get(tensor)
        activations.append(
            ActivationScale(
                tap=name,
                tensor=tensor,
                node=producer.name if producer is not None else None,
                precision=graph.rounded_precision(pairs[name]),
                threshold=tap.threshold,
                scale=graph.values(pairs[name].input[1])[0],
            )
        )
    int8 = {name for name, tensor in graph.constants.items() if tensor.data_type == onnx.TensorProto.INT8}
    weights = tuple(
        WeightScales(
            tensor=node.input[0].removesuffix(".quantized"),
            nodes=tuple(reader.name for reader in graph.readers.get(node.output[0], ())),
            axis=attribute(node, "axis", 1),
            scales=graph.values(node.input[1]),
        )
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in int8
    )
    return ScaleFile(observer=record.observer, images=record.images, activations=tuple(activations), weights=weights)


def node_precisions(model: onnx.ModelProto, on_cpu: Collection[str] = ()) -> tuple[NodePrecision, ...]:
    """Return the precision of every node of the float graph that depends on the input, in graph order.

    Args:
        on_cpu: nodes that the compiler leaves to the CPU; the QDQ graph does not contain this.
    """
    record, graph = _record(model), _QdqIndex(model)
    found = []
    for node in model.graph.node:
        if node.op_type in ROUNDING:
            continue
        inputs = {
            i: graph.read_precision(name) for i, name in enumerate(node.input) if name and not graph.is_constant(name)
        }
        if not inputs:
            continue
        written = [p for p in (graph.stored_precision(name) for name in node.output) if p is not None]
        output = _widest(written) or Precision.FLOAT32
        if node.op_type in PRODUCTS:
            in_float = node.name not in record.products
        else:
            in_float = {output, *inputs.values()} == {Precision.FLOAT32}
        found.append(
            NodePrecision(
                name=node.name,
                op=node.op_type,
                inputs=inputs,
                output=output,
                in_float=in_float or node.name in on_cpu,
            )
        )
    return tuple(found)


def node_info(model: onnx.ModelProto, march: March, on_cpu: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Return ``model_parameters.node_info`` of hb_mapper: products, moves, and what else is not int8 on the BPU.

    The tool places Softmax on the CPU by default, so every integer Softmax is listed. A float tensor that enters the
    BPU is int16, the widest available. A float node that the tool would place on the BPU is moved to the CPU. Nodes
    of ``on_cpu`` are on the CPU anyway, and a float view follows its neighbours; neither is listed.

    Raises:
        UsageError: the compiler of the march has no node_info.
    """
    nodes = _checked_precisions(model, march, on_cpu, HB_MAPPER, "node_info")
    found = {}
    for node in nodes:
        if node.in_float:
            if node.op not in VIEWS and node.op != "Softmax" and node.name not in on_cpu:
                found[node.name] = {"ON": "CPU"}
            continue
        inputs = _bpu_inputs(node)
        output = _bpu_output(node, inputs.values())
        if node.op in _NAMED or {*inputs.values(), *output.values()} != {Precision.INT8.value}:
            # A type for all inputs would change int8 weights too.
            alike = len(set(inputs.values())) == 1 and not (node.op in PRODUCTS and len(node.inputs) == 1)
            types = {"InputType": inputs[min(inputs)]} if alike else {f"InputType{i}": p for i, p in inputs.items()}
            found[node.name] = {"ON": "BPU", **types, **output}
    return found


def run_on_options(model: onnx.ModelProto, march: March, on_cpu: Collection[str] = ()) -> dict[str, str]:
    """Return hb_mapper's ``calibration_parameters`` for bernoulli2, which has no node_info and no int16.

    ``run_on_cpu``: the float nodes that are not ``on_cpu`` anyway. ``run_on_bpu``: an int8 Softmax at the network's
    end, the only one that the documentation allows on this BPU. Empty keys are omitted.

    Raises:
        UsageError: the compiler of the march has node_info or quant_config instead.
        StageError: a tensor is int16.
    """
    nodes = _checked_precisions(model, march, on_cpu, {March.BERNOULLI2}, "run_on_cpu")
    ends = {value.name for value in model.graph.output}
    last = {node.name for node in model.graph.node if ends & set(node.output)}
    cpu = [n.name for n in nodes if n.in_float and n.op not in (*VIEWS, "Softmax") and n.name not in on_cpu]
    bpu = [n.name for n in nodes if not n.in_float and n.op == "Softmax" and n.name in last]
    return {key: ";".join(names) for key, names in (("run_on_cpu", cpu), ("run_on_bpu", bpu)) if names}


def quant_config(model: onnx.ModelProto, march: March, on_cpu: Collection[str] = ()) -> dict[str, dict[str, object]]:
    """Return hb_compile's ``quant_config``: int8 and the exceptions.

    Settings common to all nodes of an operator are in ``op_config``, which does not depend on node names; the others
    are in ``node_config``. The inputs of a MatMul are listed separately. Float views follow their neighbours. A float
    tensor that enters an integer node is int16.

    Raises:
        UsageError: the compiler of the march has no quant_config.
    """
    precisions = _checked_precisions(model, march, on_cpu, HB_COMPILE, "quant_config")
    nodes = [n for n in precisions if not (n.in_float and n.op in VIEWS)]
    entries = {node.name: _quant_entry(node) for node in nodes}
    by_op: dict[str, list[dict[str, str]]] = {}
    for node in nodes:
        by_op.setdefault(node.op, []).append(entries[node.name])
    shared = {
        op: all_[0] for op, all_ in by_op.items() if all_.count(all_[0]) == len(all_) and set(all_[0]) == {"qtype"}
    }
    single = {n.name: entries[n.name] for n in nodes if entries[n.name] and n.op not in shared}
    graph = _QdqIndex(model)
    ends = _widest(graph.read_precision(value.name) for value in model.graph.output) or Precision.FLOAT32
    return {
        "model_config": {"all_node_type": Precision.INT8.value, "model_output_type": ends.value},
        "op_config": dict(shared),
        "node_config": dict(single),
    }


def _quant_entry(node: NodePrecision) -> dict[str, str]:
    if node.in_float:
        return {"qtype": Precision.FLOAT32.value}
    inputs = _bpu_inputs(node)
    wide = {f"input{i}": p for i, p in inputs.items() if p != Precision.INT8.value}
    if wide and len(wide) == len(inputs) and not (node.op == "MatMul" and len(inputs) > 1):
        return {"qtype": Precision.INT16.value}
    return wide


def _bpu_inputs(node: NodePrecision) -> dict[int, str]:
    """Return the input precisions of an integer node: a float tensor enters as int16."""
    return {i: (Precision.INT16 if p is Precision.FLOAT32 else p).value for i, p in node.inputs.items()}


def _bpu_output(node: NodePrecision, inputs: Collection[str]) -> dict[str, str]:
    """Return the output precision of an integer node for hb_mapper, if it needs one.

    Without one, a product at the network's end keeps its int32 sums, for which the tool silently narrows int16 inputs.
    """
    if node.output is not Precision.FLOAT32:
        return {"OutputType": node.output.value}
    return {"OutputType": Precision.INT16.value} if node.op in PRODUCTS and Precision.INT16.value in inputs else {}


def _checked_precisions(
    model: onnx.ModelProto, march: March, on_cpu: Collection[str], marches: Collection[March], what: str
) -> tuple[NodePrecision, ...]:
    """Return the precisions, after checking that ``march`` supports them."""
    if march not in marches:
        raise UsageError(f"the compiler of {march} does not support {what}", hint=_alternative(march))
    nodes = node_precisions(model, on_cpu)
    for node in nodes:
        for precision in (*node.inputs.values(), node.output):
            if precision is not Precision.FLOAT32 and precision not in _INTEGERS[march]:
                raise StageError(
                    f"{node.name} is {precision}, but {march} supports only {', '.join(_INTEGERS[march])}",
                    hint=f"quantize for a target with march {march}",
                )
    return nodes


def _alternative(march: March) -> str:
    if march is March.BERNOULLI2:
        return "it supports int8 only; use run_on_cpu and run_on_bpu for placement"
    if march not in _INTEGERS:
        return "it has only the scale file"
    return "use node_info for hb_mapper" if march in HB_MAPPER else "use quant_config for hb_compile"


def _record(model: onnx.ModelProto) -> QuantizeRecord:
    try:
        return QuantizeRecord.read(model)
    except KeyError as error:
        raise StageError(
            "the model has no quantization record", hint="pass the QDQ model written by `quantize`"
        ) from error


def _widest(found: Iterable[Precision]) -> Precision | None:
    return max(found, key=lambda p: _WIDTH[p], default=None)


class _QdqIndex(GraphIndex):
    """Lookup tables of a QDQ graph, and precisions in the float graph that it was made from."""

    def values(self, name: str) -> tuple[float, ...]:
        """Return the values of a constant."""
        from onnx import numpy_helper

        return tuple(float(v) for v in numpy_helper.to_array(self.constants[name]).ravel())

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is a constant, in float or integers."""
        return name in self.constants or self.unrounded(name) in self.constants

    def rounded_precision(self, node: onnx.NodeProto) -> Precision:
        """Return the precision of a QuantizeLinear or DequantizeLinear: the type of its zero point."""
        from onnx import helper

        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        kind = helper.tensor_dtype_to_np_dtype(zero.data_type).name if zero is not None else ""
        if kind not in (Precision.INT8, Precision.INT16):
            raise StageError(f"{node.name} rounds to neither int8 nor int16", hint="pass the QDQ model of `quantize`")
        return Precision(kind)

    def read_precision(self, tensor: str) -> Precision:
        """Return the precision in which a node reads ``tensor``; a view has that of its source."""
        tensor = self.source(tensor)
        producer = self.producers.get(tensor)
        if producer is None:
            return Precision.FLOAT32
        if producer.op_type == "DequantizeLinear":
            return self.rounded_precision(producer)
        return (self.stored_precision(tensor) if self._is_fused(tensor) else None) or Precision.FLOAT32

    def stored_precision(self, tensor: str) -> Precision | None:
        """Return the widest precision in which ``tensor`` is read; None if it is only a network output."""
        found: list[Precision | None] = []
        for reader in self.readers.get(tensor, ()):
            if reader.op_type == "QuantizeLinear":
                found.append(self.rounded_precision(reader))
            elif self.is_view(reader) or self._is_fused(tensor):
                found.append(self.stored_precision(reader.output[0]))
            else:
                found.append(self.read_precision(tensor))
        return _widest(p for p in found if p is not None)

    def _is_fused(self, tensor: str) -> bool:
        """Return whether fused activations read ``tensor``, so that only their output is stored."""
        producer = self.producers.get(tensor)
        return producer is not None and feeds_activations_only(producer, self.readers.get(tensor, []))
