"""Small ONNX networks, and their outputs in onnxruntime before and after the rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpudeploy.host import open_session
from bpudeploy.restructure.bpu_form import form_errors
from bpudeploy.restructure.network import read_network
from bpudeploy.restructure.rewrite import Rewritten, rewrite

Array = NDArray[Any]


def network(
    nodes: Sequence[Any],
    constants: Mapping[str, Any],
    shape: Sequence[int | str],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> Any:
    """Return a model with the input ``x`` of ``shape``."""
    import onnx
    from onnx import helper, numpy_helper

    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, None) for o in outputs],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Return seeded float32 noise."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def original(model: Any, x: Array) -> list[Array]:
    """Return the outputs of the original model."""
    outputs: list[Array] = open_session(model.SerializeToString()).run(None, {"x": x})
    return outputs


def ours(rewritten: Rewritten, x: Array) -> list[Array]:
    """Return the outputs of the rewritten model in the original's shapes."""
    session = open_session(rewritten.model.SerializeToString())
    made = session.run([o.name for o in rewritten.tensor_map.outputs], {session.get_inputs()[0].name: x})
    return [o.read(a) for o, a in zip(rewritten.tensor_map.outputs, made, strict=True)]


def rewritten_exactly(model: Any, x: Array, *, fed: Array | None = None, worst: float = 2e-6) -> Rewritten:
    """Rewrite ``model``, check its form and that it equals the original on ``x``, and return it.

    ``fed`` is the input of the rewritten model, if its layout differs from ``x``.
    """
    made = rewrite(read_network(model))
    assert form_errors(made.model) == []
    for mine, other in zip(ours(made, x if fed is None else fed), original(model, x), strict=True):
        assert mine.shape == other.shape
        assert np.abs(mine - other).max() <= worst * float(np.ptp(other) or np.abs(other).max())
    return made


def ops(made: Rewritten) -> list[str]:
    """Return the operators of the model in order."""
    return [n.op_type for n in made.model.graph.node]
