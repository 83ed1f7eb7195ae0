"""A graph laid out for an accelerator is quantized at the same tensors as before: moves of values are views."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bpudeploy.backends.horizon.thresholds import quantization
from bpudeploy.conformance.cost import multiply_accumulates
from bpudeploy.layout.lay_out import lay_out
from bpudeploy.quantize.attentions import find_attentions
from bpudeploy.quantize.deviation import layer_deviations
from bpudeploy.quantize.exponents import RAISED
from bpudeploy.quantize.integer_graph import IntegerGraph
from bpudeploy.quantize.scheme import Quantized, quantize_graph
from bpudeploy.quantize.taps import GraphIndex
from bpudeploy.restructure.edit import editable_graph
from bpudeploy.restructure.export import network_of_module
from bpudeploy.restructure.rewrite import Rewritten, rewrite
from bpudeploy.restructure.write import to_onnx
from bpudeploy.spec.layout import LayoutFacts
from bpudeploy.spec.precision import Precision, PrecisionRules, Rounding
from bpudeploy.spec.quantize import QuantizeSpec
from tests.quantize.networks import run
from tests.restructure.test_families import MakeModel, shape_of

X5 = PrecisionRules(matmul=(Precision.INT8,), elsewhere=Precision.INT16, folds_factors=True)
IMAGES = np.random.default_rng(1).standard_normal((6, 1, 3, 64, 64)).astype(np.float32)


@pytest.fixture
def exact(make_model: MakeModel) -> Rewritten:
    model = make_model("vit_tiny_patch16_224", img_size=64, depth=2)
    return rewrite(network_of_module(model, shape_of(model)))


def laid_out(exact: Rewritten, heads_together: int | None = None) -> Any:
    graph = editable_graph(exact.model, exact.keep_float)
    lay_out(graph, LayoutFacts(rows=4, columns=8, stride=2, keys=4, heads_together=heads_together))
    return to_onnx(graph), graph.keep_float


def quantized(model: Any, keep_float: tuple[str, ...]) -> Quantized:
    spec = QuantizeSpec(int16_budget=0)
    return quantize_graph(
        model, keep_float, (), X5, spec, lambda i: IMAGES[i], 6, lambda done: None, multiply_accumulates(model)
    )


@pytest.mark.parametrize("apart", [False, True], ids=["heads together", "one head at a time"])
def test_it_has_the_taps_and_the_techniques_of_the_graph_before(exact: Rewritten, apart: bool) -> None:
    before, after = quantized(exact.model, exact.keep_float), quantized(*laid_out(exact, 16 if apart else None))
    moved = [name for name in after.record.taps if name.endswith((".heads", ".rows", ".row", ".tokens", ".slice"))]
    assert not moved, "moves are views of what they move"
    for made, products in ((before, 1), (after, 3 if apart else 1)):
        factors = [name for name in made.record.factors if "attn" in name and ".sum" not in name]
        assert len(factors) == 2 * (1 + products), "values and products, two blocks"
        assert "values of 2 attention blocks centred and equalized" in made.record.levers
        assert (
            f"{2 * products} softmaxes split into two ranges, for a MatMul that takes int8 only" in made.record.levers
        )
    truth = run(exact.model, IMAGES[0])
    for made in (before, after):
        assert np.abs(run(made.prepared, IMAGES[0]) - truth).max() < 0.05 * np.ptp(truth)
        assert np.abs(run(made.qdq, IMAGES[0]) - truth).max() < 0.2 * np.ptp(truth)


@pytest.mark.parametrize("apart", [False, True], ids=["heads together", "one head at a time"])
def test_its_layers_and_integers_can_be_compared(exact: Rewritten, apart: bool) -> None:
    model, keep_float = laid_out(exact, 16 if apart else None)
    made = quantized(model, keep_float)
    made.record.write(made.qdq)
    report = layer_deviations(model, made.qdq, IMAGES[:2], lambda done: None)
    products = {n.name for n in model.graph.node if n.op_type in ("Conv", "MatMul")}
    undivided = {name for name in products if "attn.matmul.2" in name}
    assert {layer.node for layer in report.layers} == products - undivided
    assert len(undivided) == (6 if apart else 2)
    assert min(layer.cosine for layer in report.layers) > 0.9, "channel means and factors are undone"
    assert min(layer.sqnr_db for layer in report.layers) > 3.0, "so are the raised exponents of a sum"
    integers = IntegerGraph(made.qdq).run({"pixels": IMAGES[0]}, Rounding.HALF_EVEN)
    (found,) = integers.outputs.values()
    expected = run(made.qdq, IMAGES[0])
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("end", ["product", "weighted"])
def test_what_is_not_divided_by_its_own_sum_is_no_attention(end: str) -> None:
    """A product of exponentials that is the network's output; and one that is divided by their sum plus a bias."""
    shapes = {"e": (1, 4, 1, 4), "w": (4, 4, 1, 1), "ones": (1, 4, 1, 1), "b": (1,)}
    nodes = [
        helper.make_node("Exp", ["x"], ["exp"], "exp"),
        helper.make_node("Conv", ["x", "w"], ["values"], "values"),
        helper.make_node("Transpose", ["exp"], ["left"], "left", perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["values"], ["right"], "right", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["left", "right"], ["product"], "product"),
        helper.make_node("Conv", ["exp", "ones", "b"], ["sum"], "sum"),
        helper.make_node("Reciprocal", ["sum"], ["inverse"], "inverse"),
        helper.make_node("Transpose", ["product"], ["turned"], "turned", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["turned", "inverse"], ["weighted"], "weighted"),
    ]
    graph = helper.make_graph(
        nodes[:5] if end == "product" else nodes,
        "exponentials",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes.pop("e"))],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, (1, 1, 4, 4) if end == "product" else (1, 4, 1, 4))],
        [numpy_helper.from_array(np.ones(v, np.float32), k) for k, v in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    assert find_attentions(model, GraphIndex(model)) == []


def test_exponents_use_both_signs_and_what_int16_rounds_to_zero_is_cut(exact: Rewritten) -> None:
    made = quantized(*laid_out(exact))
    shifted = [tap for name, tap in made.record.taps.items() if name.endswith(".softmax.shifted")]
    weights = [tap for name, tap in made.record.taps.items() if name.endswith(".softmax.exp")]
    assert [tap.threshold for tap in shifted] == [RAISED] * 2
    assert all(tap.precision is Precision.INT16 for tap in (*shifted, *weights))
    for tap in weights:
        assert tap.peak == pytest.approx(math.exp(RAISED), rel=1e-5), "the largest weight of every row"
        assert round(math.exp(-RAISED) / tap.scale) == 0 and round(math.exp(0.2 - RAISED) / tap.scale) == 1


def test_a_compiler_gets_the_threshold_of_every_move(exact: Rewritten) -> None:
    made = quantized(*laid_out(exact))
    made.record.write(made.qdq)
    given = quantization(made.qdq)["activations"]
    for move, source in (
        ("attn.2.repeated.heads", "attn.2"),
        ("attn.3.filled.heads.turned", "attn.3"),
        ("attn.softmax.weighted.joined", "attn.softmax.weighted"),
    ):
        assert given[f"blocks.0.{move}"] == given[f"blocks.0.{source}"]
