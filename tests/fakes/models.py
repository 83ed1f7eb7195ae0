"""What the tools ask of an ONNX file before they look at a single operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.say import Refused


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
