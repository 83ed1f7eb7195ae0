"""A quantized model's precisions as the vendors' compilers take them: hb_mapper's node_info, hb_compile's quant_config.

hb_mapper 1.24.3 takes what is written here (tests/backends/horizon/test_real.py); hb_compile was never run on it.

Documented (github.com/D-Robotics/rdk_doc, ptq_process): node_info's keys and values, that it is for bayes and bayes-e
only, that ``InputType`` is of all inputs and ``OutputType`` of all outputs, that the tool falls back to int8, with a
line in its log, where it has no int16. Documented (github.com/HorizonRobotics/OE-Skills): quant_config's keys and
values, and that ``node_config`` goes before ``op_config`` before ``model_config``.

Met in hb_mapper 1.24.3: nodes keep their names, but for those that it merges: a fusion has the name of its last node,
and node_info of another is ignored without a word. MatMul has no int16 on bayes and bayes-e. X3 takes node_info too,
with int8 and ON alone, so nothing is written for it.

Assumed: that a Conv's weights stay int8 unless its second input is asked to be more; that ``qtype: int16`` of a MatMul
leaves one factor in int8, as published files that name both inputs suggest.

A model is to be quantized for the march that is asked about: on a BPU's march every tensor is rounded but at the CPU's
nodes, so a float one that enters the BPU was made there.

Both tools calibrate on their own: they take over precisions and no activation scale. The scale file is for whoever can.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError, UsageError
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.taps import PRODUCTS, ROUNDING, Reading, is_passed_on
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
_WIDTH = {Precision.INT8: 0, Precision.INT16: 1, Precision.FLOAT32: 2}


class ActivationScale(Frozen):
    """One rounding: integer = round(x / scale), held within ±127 (int8) or ±32767 (int16)."""

    tap: str
    tensor: str
    """The tensor of the float graph that is rounded."""
    node: str | None
    """The node that makes it; null for the network's input."""
    precision: Precision
    threshold: float
    scale: float


class WeightScales(Frozen):
    """A constant held in int8: the scale of each slice along ``axis``."""

    tensor: str
    nodes: tuple[str, ...]
    """The nodes that read it."""
    axis: int
    scales: tuple[float, ...]


class ScaleFile(Frozen):
    """Every scale of a quantized model. An int32 bias has the product of its weights' and its input's scales."""

    version: int = 1
    observer: str
    images: int
    activations: tuple[ActivationScale, ...]
    weights: tuple[WeightScales, ...]


class NodePrecision(Frozen):
    """How one node of the float graph is fed and what it gives; constants are left out of ``inputs``.

    ``output`` is the widest form in which anyone reads the output; float32 where only the network's end does.
    """

    name: str
    op: str
    inputs: dict[int, Precision]
    output: Precision
    in_float: bool
    """It computes in float: on the CPU of a board whose accelerator has none."""


def scale_file(model: onnx.ModelProto) -> ScaleFile:
    """Return every scale of the QDQ ``model``, as it computes with them.

    Raises:
        StageError: a tap of the record has no QuantizeLinear.
    """
    record, graph = _record(model), _Graph(model)
    pairs = {n.name.removesuffix(".quantize"): n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    activations = []
    for name, tap in record.taps.items():
        if name not in pairs:
            raise StageError(f"{name} is recorded as rounded and no QuantizeLinear rounds it", hint="quantize it again")
        tensor = graph.unrounded(pairs[name].input[0])
        maker = graph.maker.get(tensor)
        activations.append(
            ActivationScale(
                tap=name,
                tensor=tensor,
                node=maker.name if maker is not None else None,
                precision=graph.integer(pairs[name]),
                threshold=tap.threshold,
                scale=graph.numbers(pairs[name].input[1])[0],
            )
        )
    return ScaleFile(
        observer=record.observer, images=record.images, activations=tuple(activations), weights=tuple(_weights(graph))
    )


def node_precisions(model: onnx.ModelProto, on_cpu: Collection[str] = ()) -> tuple[NodePrecision, ...]:
    """Return the precision of every node of the float graph that depends on the input, in the graph's order.

    Args:
        on_cpu: nodes that the compiler leaves to the CPU, as placement says; the QDQ form does not tell.
    """
    record, graph = _record(model), _Graph(model)
    found = []
    for node in graph.nodes:
        inputs = {i: graph.read(name) for i, name in enumerate(node.input) if name and not graph.constant(name)}
        if not inputs:
            continue
        held = [p for p in (graph.made(name) for name in node.output) if p is not None]
        output = _widest(held) or Precision.FLOAT32
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
    """Return ``model_parameters.node_info`` of hb_mapper: the nodes that deviate from int8 on the BPU.

    Softmax is on the CPU unless asked for, so each one in integers is named. A float tensor that enters the BPU is
    given as int16, the widest that it has. A node in float that the tool would put on the BPU is sent to the CPU; one
    of ``on_cpu`` is left out, for the tool leaves it there by itself, and so is a view, which follows its neighbours.

    Raises:
        UsageError: the march's compiler has no node_info.
    """
    nodes = _for(model, march, on_cpu, HB_MAPPER, "node_info")
    found = {}
    for node in nodes:
        if node.in_float:
            if node.op not in VIEWS and node.op != "Softmax" and node.name not in on_cpu:
                found[node.name] = {"ON": "CPU"}
            continue
        inputs = _on_the_bpu(node)
        output = {"OutputType": node.output.value} if node.output is not Precision.FLOAT32 else {}
        if node.op == "Softmax" or {*inputs.values(), *output.values()} != {Precision.INT8.value}:
            alike = len(set(inputs.values())) == 1 and not _weighted(node)
            types = {"InputType": inputs[min(inputs)]} if alike else {f"InputType{i}": p for i, p in inputs.items()}
            found[node.name] = {"ON": "BPU", **types, **output}
    return found


def run_on(model: onnx.ModelProto, march: March, on_cpu: Collection[str] = ()) -> dict[str, str]:
    """Return what hb_mapper's ``calibration_parameters`` say for bernoulli2, which has no node_info and no int16.

    ``run_on_cpu`` names nodes in float that are not ``on_cpu`` anyway; ``run_on_bpu`` a Softmax in int8 at the
    network's end, the only one that the document lets onto this BPU. A key that has nothing to say is left out.

    Raises:
        UsageError: the march's compiler has node_info or quant_config for that.
        StageError: a tensor is int16.
    """
    nodes = _for(model, march, on_cpu, {March.BERNOULLI2}, "run_on_cpu")
    ends = {value.name for value in model.graph.output}
    last = {node.name for node in model.graph.node if ends & set(node.output)}
    cpu = [n.name for n in nodes if n.in_float and n.op not in (*VIEWS, "Softmax") and n.name not in on_cpu]
    bpu = [n.name for n in nodes if not n.in_float and n.op == "Softmax" and n.name in last]
    return {key: ";".join(names) for key, names in (("run_on_cpu", cpu), ("run_on_bpu", bpu)) if names}


def quant_config(model: onnx.ModelProto, march: March, on_cpu: Collection[str] = ()) -> dict[str, dict[str, object]]:
    """Return hb_compile's ``quant_config``: int8, and what deviates from it.

    What all nodes of an operator have in common is in ``op_config``, which outlives a renaming; the rest in
    ``node_config``. The inputs of a MatMul are named one by one.
    A view in float follows its neighbours. A float tensor that enters an integer node is given as int16.

    Raises:
        UsageError: the march's compiler has no quant_config.
    """
    nodes = [n for n in _for(model, march, on_cpu, HB_COMPILE, "quant_config") if not (n.in_float and n.op in VIEWS)]
    given = {node.name: _quant_entry(node) for node in nodes}
    by_op: dict[str, list[dict[str, str]]] = {}
    for node in nodes:
        by_op.setdefault(node.op, []).append(given[node.name])
    shared = {
        op: all_[0] for op, all_ in by_op.items() if all_.count(all_[0]) == len(all_) and set(all_[0]) == {"qtype"}
    }
    single = {n.name: given[n.name] for n in nodes if given[n.name] and n.op not in shared}
    graph = _Graph(model)
    ends = _widest(graph.read(value.name) for value in model.graph.output) or Precision.FLOAT32
    return {
        "model_config": {"all_node_type": Precision.INT8.value, "model_output_type": ends.value},
        "op_config": dict(shared),
        "node_config": dict(single),
    }


def _quant_entry(node: NodePrecision) -> dict[str, str]:
    if node.in_float:
        return {"qtype": Precision.FLOAT32.value}
    inputs = _on_the_bpu(node)
    wide = {f"input{i}": p for i, p in inputs.items() if p != Precision.INT8.value}
    if wide and len(wide) == len(inputs) and not (node.op == "MatMul" and len(inputs) > 1):
        return {"qtype": Precision.INT16.value}
    return wide


def _on_the_bpu(node: NodePrecision) -> dict[int, str]:
    """Return what a node that computes in integers is fed: a float tensor enters as int16."""
    return {i: (Precision.INT16 if p is Precision.FLOAT32 else p).value for i, p in node.inputs.items()}


def _weighted(node: NodePrecision) -> bool:
    """Say whether a node has int8 weights, which a type for all inputs would change."""
    return node.op in PRODUCTS and len(node.inputs) == 1


def _for(
    model: onnx.ModelProto, march: March, on_cpu: Collection[str], marches: Collection[March], what: str
) -> tuple[NodePrecision, ...]:
    """Return the precisions, held against what ``march`` has."""
    if march not in marches:
        raise UsageError(f"{march} has no compiler that takes {what}", hint=_instead(march))
    nodes = node_precisions(model, on_cpu)
    for node in nodes:
        for precision in (*node.inputs.values(), node.output):
            if precision is not Precision.FLOAT32 and precision not in _INTEGERS[march]:
                raise StageError(
                    f"{node.name} is {precision} and {march} computes in {', '.join(_INTEGERS[march])} only",
                    hint=f"quantize for a target whose march is {march}",
                )
    return nodes


def _instead(march: March) -> str:
    if march is March.BERNOULLI2:
        return "int8 is all that it has; run_on_cpu and run_on_bpu say where"
    if march is March.CPU:
        return "the scale file is all that there is for a CPU"
    return "hb_mapper takes node_info" if march in HB_MAPPER else "hb_compile takes quant_config"


def _record(model: onnx.ModelProto) -> QuantizeRecord:
    try:
        return QuantizeRecord.read(model)
    except KeyError as error:
        raise StageError(
            "the model has no record of its quantization", hint="give the QDQ model of `quantize`"
        ) from error


def _widest(found: Iterable[Precision]) -> Precision | None:
    return max(found, key=lambda p: _WIDTH[p], default=None)


def _weights(graph: _Graph) -> Iterable[WeightScales]:
    import onnx

    for node in graph.dequantized:
        if node.input[0] not in graph.constants or graph.constants[node.input[0]].data_type != onnx.TensorProto.INT8:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        yield WeightScales(
            tensor=node.input[0].removesuffix(".quantized"),
            nodes=tuple(reader.name for reader in graph.readers.get(node.output[0], ())),
            axis=axis,
            scales=graph.numbers(node.input[1]),
        )


class _Graph:
    """A QDQ graph, read as the float graph that it was made of: ``nodes`` are that one's."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = [node for node in model.graph.node if node.op_type not in ROUNDING]
        self.dequantized = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
        reading = Reading(model)
        self.constants, self.maker, self.readers = reading.constants, reading.maker, reading.readers
        self.unrounded = reading.unrounded

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a constant's values."""
        from onnx import numpy_helper

        return tuple(float(v) for v in numpy_helper.to_array(self.constants[name]).ravel())

    def constant(self, name: str) -> bool:
        """Say whether a tensor is a constant, as it is or held in integers."""
        maker = self.maker.get(name)
        held = maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in self.constants
        return name in self.constants or held

    def integer(self, node: onnx.NodeProto) -> Precision:
        """Return what a QuantizeLinear or DequantizeLinear rounds to: its zero point's type."""
        import onnx

        kinds: Mapping[int, Precision] = {
            onnx.TensorProto.INT8: Precision.INT8,
            onnx.TensorProto.INT16: Precision.INT16,
        }
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type not in kinds:
            raise StageError(f"{node.name} rounds to neither int8 nor int16", hint="give the QDQ model of `quantize`")
        return kinds[zero.data_type]

    def read(self, tensor: str) -> Precision:
        """Return the precision of what a node that reads ``tensor`` gets; a view has that of what it shows."""
        while (maker := self.maker.get(tensor)) is not None and maker.op_type in VIEWS:
            tensor = maker.input[0]
        if maker is None:
            return Precision.FLOAT32
        if maker.op_type == "DequantizeLinear":
            return self.integer(maker)
        return (self.made(tensor) if self._summed(tensor) else None) or Precision.FLOAT32

    def made(self, tensor: str) -> Precision | None:
        """Return the widest form in which ``tensor`` is read; None where only the network's end reads it."""
        found: list[Precision | None] = []
        for reader in self.readers.get(tensor, ()):
            if reader.op_type == "QuantizeLinear":
                found.append(self.integer(reader))
            elif reader.op_type in VIEWS or self._summed(tensor):
                found.append(self.made(reader.output[0]))
            else:
                found.append(self.read(tensor))
        return _widest(p for p in found if p is not None)

    def _summed(self, tensor: str) -> bool:
        """Say whether a sum goes straight through an activation, whose output is what is held."""
        maker = self.maker.get(tensor)
        return maker is not None and is_passed_on(maker, self.readers.get(tensor, []))
