"""What the tools ask of an ONNX file before they look at a single operator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.say import Refused

ONLY_4D = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"}


@dataclass
class Network:
    """A loaded model; ``inputs`` has the shape of every input that is no weight, 0 where it is dynamic."""

    path: Path
    model: Any
    inputs: dict[str, list[int]]
    outputs: list[str]
    opset: int

    def named(self) -> set[str]:
        """Return the names of its nodes, as the tools make them up where there are none."""
        return {n.name for n in self.model.graph.node if n.name}


def load(path: Path) -> Network:
    """Load and read what the tools print first."""
    import onnx

    if not path.is_file():
        raise Refused(f"{path} does not exist.")
    try:
        model = onnx.load(str(path))
    except Exception as problem:
        raise Refused(f"[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from {path} failed") from problem
    if not model.graph.node:
        raise Refused(f"[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from {path} failed")
    fed = {t.name for t in model.graph.initializer}
    inputs = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input if v.name not in fed
    }
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)
    return Network(path, model, inputs, [o.name for o in model.graph.output], opset)


def reshaped(network: Network, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs the shapes of the command line or the YAML."""
    for value in network.model.graph.input:
        wanted = shapes.get(value.name)
        if wanted is None:
            continue
        known = network.inputs[value.name]
        if len(known) != len(wanted) or any(k not in (0, w) for k, w in zip(known, wanted, strict=True)):
            raise Refused(
                f"wrong input shape for input '{value.name}': specified {list(wanted)}, the model has {known}"
            )
        network.inputs[value.name] = list(wanted)
        for dim, size in zip(value.type.tensor_type.shape.dim, wanted, strict=True):
            dim.Clear()
            dim.dim_value = size


def building(text: str) -> Refused:
    """Return a failure of the model builder: bare as in the FAQ, or wrapped as users report it of 1.24."""
    if os.environ.get("FAKE_HB_WORDING") == "1.24":
        return Refused(f"*** ERROR-OCCUR-DURING {{horizon_nn.build_onnx}} ***, error message: {text}")
    return Refused(text)


def check_opset(network: Network) -> None:
    """Refuse what family B cannot read."""
    if network.opset not in (10, 11):
        if os.environ.get("FAKE_HB_WORDING") == "1.24" and network.opset > 11:
            raise building(f"The opset version of the model is {network.opset}, the maximum supported version is 11.")
        raise building(
            f"The opset version of the onnx model is {network.opset}, only model with opset_version 10/11 is supported"
        )
    if network.model.ir_version > 7:
        raise building(
            f"[ONNXRuntimeError] : 1 : FAIL : Load model from {network.path} failed:"
            f"Unsupported model IR version: {network.model.ir_version}, max supported IR version: 7"
        )


def check_inputs(network: Network) -> None:
    """Refuse dynamic and not 4-D inputs."""
    for name, shape in network.inputs.items():
        if 0 in shape or not shape:
            raise Refused(
                f"The shape of model input:{name} is {shape} which has dimensions of 0. "
                "Please specify input-shape parameter."
            )
        if len(shape) != 4:
            raise Refused("list index out of range", warnings=(f"input shape {shape} has length: {len(shape)}",))
        if shape[0] != 1:
            raise building(f"input {name} has a batch of {shape[0]}, only batch 1 is supported")


def check_outputs(network: Network) -> None:
    """Refuse more outputs than the runtime has."""
    if len(network.outputs) > 32:
        raise building("tool limits for max output num is 32")


def check_domains(network: Network, *, custom: bool) -> None:
    """Refuse operators that are not of ONNX, unless the YAML registers them."""
    foreign: dict[str, list[str]] = {}
    for node in network.model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            foreign.setdefault(node.domain, []).append(node.op_type)
    if custom or not foreign:
        return
    domain, ops = next(iter(foreign.items()))
    raise building(
        f"nodes:{ops} are specified as domain:{domain}, which are not supported by official onnx. "
        "Please check whether these ops are official onnx ops or defined by yourself"
    )
