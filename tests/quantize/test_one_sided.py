"""One-sided ranges are centred exactly, and int16 is spent where it helps most."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bpudeploy.quantize.scheme import Quantized, quantize_graph
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import QuantizeSpec
from tests.quantize.networks import INT8, run

FOLDS = PrecisionRules(matmul=(Precision.INT8,), elsewhere=Precision.INT16, folds_factors=True)
IMAGES = np.random.default_rng(1).standard_normal((6, 1, 3, 8, 8)).astype(np.float32)
CENTRED = QuantizeSpec(int16=(), int16_budget=0, migrate=False)


def swish(padding: int = 0, outlier: float = 1.0) -> onnx.ModelProto:
    """Return a Conv, x * sigmoid(x), and a Conv that reads it; ``outlier`` is the size of one channel between them."""
    rng = np.random.default_rng(0)
    side = 1 + 2 * padding
    weights = {
        "first.w": rng.standard_normal((8, 3, 1, 1)) * np.array([outlier, *[1.0] * 7]).reshape(-1, 1, 1, 1),
        "second.w": rng.standard_normal((4, 8, side, side)) / np.array([outlier, *[1.0] * 7]).reshape(1, -1, 1, 1),
        "second.b": rng.standard_normal(4),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "first.w"], ["a"], "first"),
        helper.make_node("Sigmoid", ["a"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["a", "s"], ["b"], "swish"),
        helper.make_node("Conv", ["b", "second.w", "second.b"], ["scores"], "second", pads=[padding] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "swish",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def make(model: onnx.ModelProto, spec: QuantizeSpec, macs: dict[str, int] | None = None) -> Quantized:
    made = quantize_graph(model, (), (), FOLDS, spec, lambda i: IMAGES[i], len(IMAGES), lambda done: None, macs)
    made.record.write(made.qdq)
    return made


def error(model: onnx.ModelProto, made: Quantized) -> float:
    return float(np.mean([((run(made.qdq, x) - run(model, x)) ** 2).mean() for x in IMAGES]))


def test_a_one_sided_input_uses_both_halves_of_int8() -> None:
    model = swish()
    plain, centred = make(model, CENTRED.model_copy(update={"centre": False})), make(model, CENTRED)
    assert centred.record.taps["b.centred"].scale < 0.75 * plain.record.taps["b"].scale
    assert error(model, centred) < 0.8 * error(model, plain)
    assert "1 one-sided activations centred, with a Sub each" in centred.record.levers
    float_ = make(model, INT8.model_copy(update={"centre": True}))
    for image in IMAGES:
        np.testing.assert_allclose(run(float_.prepared, image), run(model, image), atol=0.2)


def test_a_padded_reader_is_left_alone() -> None:
    """Its padding is zero, which a shifted input no longer is."""
    made = make(swish(padding=1), CENTRED)
    assert not [name for name in made.record.taps if name.endswith(".centred")]


@pytest.mark.parametrize(("budget", "promoted"), [(0.0, False), (1.0, False), (100.0, True)])
def test_int16_is_spent_within_its_budget(budget: float, promoted: bool) -> None:
    model = swish(outlier=40.0)
    macs = {"first": 1000, "second": 1000}
    made = make(model, CENTRED.model_copy(update={"int16_budget": budget}), macs)
    found: dict[str, Any] = {name: tap.precision for name, tap in made.record.taps.items() if tap.products}
    assert (Precision.INT16 in found.values()) == promoted, found


def test_layers_that_cost_nothing_are_int16() -> None:
    macs = {"first": 1_000_000, "second": 10}
    made = make(swish(), CENTRED.model_copy(update={"int16": ("small",)}), macs)
    assert made.record.taps["pixels"].precision is Precision.INT8
    assert made.record.taps["b"].precision is Precision.INT16
