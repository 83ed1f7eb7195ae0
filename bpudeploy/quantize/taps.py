"""Which tensors of a restructured graph become int8, and where each one's scale comes from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_INTEGER = frozenset({"Conv", "MatMul"})
_LAYOUT = frozenset({"Reshape", "Transpose", "Slice"})
"""Operators that move values and change none: scale and rounding are the same on both sides."""


@dataclass(frozen=True)
class Taps:
    """``nodes`` run in int8. ``root`` maps each tensor that is quantized to the one that it is observed at:
    a tensor behind Reshape, Transpose or Slice has the scale of what went in, so it is rounded once only.
    """

    nodes: tuple[str, ...]
    root: dict[str, str]

    @property
    def observed(self) -> list[str]:
        """The tensors to observe, in the graph's order."""
        return list(dict.fromkeys(self.root.values()))


def find_taps(model: onnx.ModelProto, keep_float: Collection[str]) -> Taps:
    """Return the taps of ``model``: what goes into each Conv and MatMul.

    What comes out is an int32 sum, read as float by the next node: rounding it to int8 at once as well
    costs points of accuracy (docs/decisions). Nodes in ``keep_float`` stay float.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    root: dict[str, str] = {}
    nodes = [n for n in graph.node if n.op_type in _INTEGER and n.name not in keep_float]
    for node in nodes:
        for tensor in (name for name in node.input[:2] if name not in constants):
            source = tensor
            while source in maker and maker[source].op_type in _LAYOUT:
                source = maker[source].input[0]
            root[tensor] = source
            root.setdefault(source, source)
    return Taps(tuple(n.name for n in nodes), root)
