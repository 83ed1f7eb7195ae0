"""Tiny ONNX graphs for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device, Form, NodePlacement
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple[int, ...]
X3, X5, ULTRA, S100 = March.BERNOULLI2, March.BAYES_E, March.BAYES, March.NASH_E


def graph(
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
    inputs: dict[str, Shape],
    constants: dict[str, NDArray[Any]] | None = None,
    outputs: list[str] | None = None,
    opset: int = 11,
) -> onnx.ModelProto:
    """Return a model of (op, inputs, outputs, attributes)."""
    made = [helper.make_node(op, i, o, name=o[0], **a) for op, i, o, a in nodes]
    return helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in inputs.items()],
            [
                helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
                for n in outputs or list(made[-1].output[:1])
            ],
            [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=7,
    )


def one(
    op: str,
    shapes: list[Shape],
    march: March,
    *,
    weights: tuple[NDArray[Any], ...] = (),
    outputs: int = 1,
    opset: int = 11,
    after: str | None = None,
    form: Form = Form.RESTRUCTURED,
    **attributes: Any,
) -> NodePlacement:
    """Return the placement of a single node, with inputs of ``shapes`` and then constants.

    A Relu (or ``after``) follows, so the node is not the network's output.
    """
    inputs = {f"x{i}": s for i, s in enumerate(shapes)}
    constants = {f"c{i}": w for i, w in enumerate(weights)}
    names = [f"y{i}" for i in range(outputs)]
    nodes = [(op, [*inputs, *constants], names, attributes)]
    if after != "":
        second = ["y0", "y0"] if after == "Add" else ["y0"]
        nodes.append((after or "Relu", second, ["z"], {}))
    return placement(graph(nodes, inputs, constants, opset=opset), march, form=form).nodes[0]


def zeros(*shape: int) -> NDArray[np.float32]:
    """Return a float constant."""
    return np.zeros(shape, np.float32)


def ints(*numbers: int) -> NDArray[np.int64]:
    """Return an integer constant."""
    return np.array(numbers, np.int64)


__all__ = ["S100", "ULTRA", "X3", "X5", "Device", "graph", "ints", "one", "zeros"]
