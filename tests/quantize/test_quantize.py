"""Quantization of a whole graph: exact passes stay exact, integers follow the rules, techniques reduce the error."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bpudeploy.errors import StageError
from bpudeploy.quantize.calibrate import COLUMNS, StatisticsRequest, observe
from bpudeploy.quantize.centre import centre_values
from bpudeploy.quantize.integer import compare_with_onnxruntime
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.record import Tap
from bpudeploy.quantize.scheme import Quantized, quantize_graph
from bpudeploy.quantize.split_softmax import split_softmax
from bpudeploy.quantize.taps import WIDE, find_products, find_quantization_points
from bpudeploy.quantize.weights import ConvSamples, ConvWeights, QuantizedWeights, quantize_weights, weight_scales
from bpudeploy.quantize.window import Window
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import QuantizeSpec, WeightRounding, WeightScale, WeightSpec
from tests.quantize.networks import CPU, INT8, X3, X5, make, run


def error(rewritten: Any, made: Quantized, images: Any) -> float:
    pairs = [(run(rewritten.model, i).ravel(), run(made.qdq, i).ravel()) for i in images]
    return float(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a**2).sum() for a, _ in pairs))


@pytest.mark.parametrize("rules", [CPU, X5, X3], ids=["cpu", "x5", "x3"])
@pytest.mark.parametrize("spec", [INT8, QuantizeSpec()], ids=["plain", "default"])
def test_the_qdq_graph_runs_close_to_float_by_every_marchs_rules(
    rewritten: Any, images: Any, spec: QuantizeSpec, rules: PrecisionRules
) -> None:
    made = make(rewritten, images, spec, rules)
    assert error(rewritten, made, images) < (0.06 if rules is X3 else 0.02), "all of X3 is int8, its softmax whole"
    held = {tap.precision for tap in made.record.taps.values()}
    assert held <= {Precision.INT8} | ({Precision.INT16} if Precision.INT16 in rules.conv else set())
    constants = {t.name: numpy_helper.to_array(t) for t in made.qdq.graph.initializer}
    for name, tap in made.record.taps.items():
        assert constants[f"{name}.scale"] == np.float32(tap.threshold / tap.precision.levels)
        room = 2.0 if tap.precision is Precision.INT16 and tap.products else 1.0
        assert 0 < tap.threshold <= room * tap.peak * (1 + 1e-6)
    weights = [v for n, v in constants.items() if n.endswith(".quantized") and v.dtype == np.int8]
    assert weights and all(np.abs(w.astype(int)).max() <= 127 for w in weights)
    assert {n.name for n in rewritten.model.graph.node} <= {n.name for n in made.qdq.graph.node}, "node names stay"


def test_the_default_is_nearer_to_float_than_plain_int8(rewritten: Any, images: Any) -> None:
    plain = error(rewritten, make(rewritten, images, INT8, CPU), images)
    for rules in (CPU, X5):
        assert error(rewritten, make(rewritten, images, QuantizeSpec(), rules), images) < 0.6 * plain


def test_every_rounded_tensor_is_read_by_integers_only(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images, QuantizeSpec(), X5)
    readers: dict[str, list[Any]] = {}
    maker = {o: n for n in made.qdq.graph.node for o in n.output}
    for node in made.qdq.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def root(name: str) -> Any:
        while maker[name].op_type in ("Reshape", "Transpose", "Slice"):
            name = maker[name].input[0]
        return maker[name]

    products = [n for n in made.qdq.graph.node if n.name in made.record.products]
    assert products
    for node in products:
        assert all(root(name).op_type == "DequantizeLinear" for name in node.input), node.name


def test_the_prepared_graph_holds_the_integers_values(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images, QuantizeSpec(), CPU)
    constants = {t.name: numpy_helper.to_array(t) for t in made.qdq.graph.initializer}
    prepared = {t.name: numpy_helper.to_array(t) for t in made.prepared.graph.initializer}
    assert next(e.version for e in made.prepared.opset_import) == 11
    checked = 0
    for node in made.prepared.graph.node:
        if f"{node.name}.weight.quantized" in constants:
            scale = constants[f"{node.name}.weight.scale"].reshape(-1, 1, 1, 1)
            integers = constants[f"{node.name}.weight.quantized"].astype(np.float32)
            np.testing.assert_allclose(prepared[node.input[1]], integers * scale, rtol=1e-6, atol=1e-9)
            checked += 1
    assert checked == sum(n.op_type == "Conv" and n.name in made.record.products for n in made.prepared.graph.node)


def test_observing_is_one_pass_in_fixed_memory_and_its_order_does_not_matter(rewritten: Any, images: Any) -> None:
    points = find_quantization_points(rewritten.model, CPU, rewritten.keep_float, ())
    request = StatisticsRequest([p.source for p in points], [], {"pixels": [Window((16, 16), (16, 16))]})
    passes: list[int] = []
    forward = observe(rewritten.model, request, iter(images), len(images), passes.append)
    backward = observe(rewritten.model, request, iter(images[::-1]), len(images), lambda done: None)
    assert passes == [1, 2, 3, 4, 5, 6]
    for name in request.histograms:
        assert forward[name].maximum == backward[name].maximum
        np.testing.assert_array_equal(forward[name].histogram.counts, backward[name].histogram.counts)
    many = observe(rewritten.model, request, (images[i % 6] for i in range(150)), 150, lambda done: None)
    assert many["pixels"].sampled(Window((16, 16), (16, 16))).shape == (768, COLUMNS)


def test_an_image_that_overflows_names_the_tensor(rewritten: Any) -> None:
    request = StatisticsRequest(["pixels"], [], {})
    with pytest.raises(StageError, match="calibration image 1 makes pixels infinite or NaN"):
        observe(rewritten.model, request, iter([np.full((1, 3, 64, 64), np.nan, np.float32)]), 1, lambda done: None)


def test_centred_values_and_a_split_softmax_are_exact(rewritten: Any, images: Any) -> None:
    centred, moved = centre_values(rewritten.model, iter(images[:2]))
    equalized, factors = centre_values(rewritten.model, iter(images[:2]), equalize=True)
    split, softmaxes = split_softmax(equalized)
    depth = sum(n.op_type == "Softmax" for n in rewritten.model.graph.node)
    assert len(moved) == 2 * depth and softmaxes == depth > 0
    assert {x for row in moved.values() for x in row} == {1.0}
    assert moved.keys() == factors.keys() and all(min(row) >= 1.0 for row in factors.values())
    for image in images:
        truth = run(rewritten.model, image)
        for model in (centred, equalized, split):
            assert np.abs(run(model, image) - truth).max() < 1e-5 * np.ptp(truth)
    values = {n.name for n in centred.graph.node} - {n.name for n in rewritten.model.graph.node}
    assert not values, "centring adds no node"


def chain(*nodes: Any, weights: dict[str, Any], shape: tuple[int, ...] = (1, 8, 6, 6)) -> Any:
    """Return a model of ``nodes`` from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def uneven(rng: Any, *shape: int) -> Any:
    """Return weights whose output channels differ a hundredfold, as those of depthwise nets do."""
    return rng.standard_normal(shape) * np.logspace(-1, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


@pytest.mark.parametrize("depthwise", [True, False])
def test_between_convolutions_scales_migrate_for_nothing(depthwise: bool) -> None:
    rng = np.random.default_rng(0)
    groups, inner = (16, 1) if depthwise else (1, 16)
    model = chain(
        node("Conv", ["x", "a", "b"], "first"),
        node("Relu", ["first"], "relu"),
        node("Conv", ["relu", "w"], "y", group=groups, pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        weights={"a": uneven(rng, 16, 8, 1, 1), "b": uneven(rng, 16), "w": rng.standard_normal((16, inner, 3, 3))},
    )
    images = rng.standard_normal((8, 1, 8, 6, 6)).astype(np.float32)

    def loss(spec: QuantizeSpec) -> tuple[float, Quantized]:
        made = quantize_graph(model, (), (), X3, spec, lambda i: images[i], 8, lambda done: None)
        return float(np.mean([(run(model, i) - run(made.qdq, i)) ** 2 for i in images])), made

    before, _ = loss(INT8)
    after, made = loss(INT8.model_copy(update={"migrate": True}))
    assert after < (0.6 if depthwise else 1.0) * before
    kept = [n.op_type for n in made.qdq.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert kept == ["Conv", "Relu", "Conv"], "no node was added"
    assert len(made.record.factors["first"]) == 16


@pytest.mark.parametrize(
    ("height", "width", "out", "shape"),
    [(6, 5, 512, (1, 8, 6, 1)), (1, 5, 512, (1, 8, 1, 5)), (1, 1, 512, None), (6, 5, 64, None)],
)
def test_a_compiler_that_folds_factors_is_given_one_for_each_row_where_that_pays(
    height: int, width: int, out: int, shape: tuple[int, ...] | None
) -> None:
    rng = np.random.default_rng(0)
    model = chain(
        node("Conv", ["x", "a"], "one"),
        node("Conv", ["x", "b"], "two"),
        node("Add", ["one", "two"], "sum"),
        node("Conv", ["sum", "w"], "y"),
        weights={
            "a": uneven(rng, 8, 8, 1, 1),
            "b": uneven(rng, 8, 8, 1, 1),
            "w": rng.standard_normal((out, 8, 1, 1)) / np.logspace(-1, 1, 8).reshape(1, -1, 1, 1),
        },
        shape=(1, 8, height, width),
    )
    rng = np.random.default_rng(1)
    images = rng.standard_normal((8, 1, 8, height, width)).astype(np.float32)
    rules = X5.model_copy(update={"folds_factors": True})

    def loss(spec: QuantizeSpec) -> tuple[float, Quantized]:
        made = quantize_graph(model, (), (), rules, spec, lambda i: images[i], 8, lambda done: None)
        return float(np.mean([(run(model, i) - run(made.qdq, i)) ** 2 for i in images])), made

    before, _ = loss(INT8)
    after, made = loss(INT8.model_copy(update={"migrate": True}))
    found = {t.name: tuple(t.dims) for t in made.prepared.graph.initializer if t.name.endswith(".migrated.factor")}
    assert found == ({} if shape is None else {"sum.migrated.factor": shape})
    assert shape is None or after < 0.5 * before


@pytest.mark.parametrize("rules", [CPU, X5, X3])
def test_what_an_addition_reads_too_is_not_divided(rules: PrecisionRules) -> None:
    """The narrow ends of MobileNetV2's blocks: a Conv and the sum around it read what a Conv gives."""
    rng = np.random.default_rng(0)
    model = chain(
        node("Conv", ["x", "a"], "stream"),
        node("Conv", ["stream", "w"], "branch"),
        node("Add", ["stream", "branch"], "y"),
        weights={"a": uneven(rng, 8, 8, 1, 1), "w": rng.standard_normal((8, 8, 1, 1))},
    )
    images = rng.standard_normal((4, 1, 8, 6, 6)).astype(np.float32)
    spec = INT8.model_copy(update={"migrate": True})
    made = quantize_graph(model, (), (), rules, spec, lambda i: images[i], 4, lambda done: None)
    assert np.abs(run(made.qdq, images[0]) - run(model, images[0])).max() < 0.05 * np.ptp(run(model, images[0]))


def test_a_tensor_of_two_kinds_of_reader_is_wide_for_one_and_narrow_for_the_other() -> None:
    rng = np.random.default_rng(0)
    model = chain(
        node("Conv", ["x", "a"], "stem"),
        node("Relu", ["stem"], "stream"),
        node("Conv", ["stream", "w"], "branch"),
        node("Add", ["stream", "branch"], "y"),
        weights={"a": rng.standard_normal((4, 8, 1, 1)), "w": rng.standard_normal((4, 4, 1, 1))},
    )

    def taps(rules: PrecisionRules) -> dict[str, Precision]:
        return {p.name: p.precision for p in find_quantization_points(model, rules, (), ())}

    int8, int16 = Precision.INT8, Precision.INT16
    assert taps(CPU) == {"x": int8, "stream": int8}
    assert taps(X3) == {"x": int8, "stream": int8, "branch": int8}
    assert taps(X5) == {"x": int8, f"stream{WIDE}": int16, "stream": int8, "branch": int16}
    made = quantize_graph(
        model, (), (), X5, INT8, lambda i: rng.standard_normal((1, 8, 6, 6)).astype(np.float32), 4, lambda done: None
    )
    inputs = {n.name: list(n.input) for n in made.qdq.graph.node}
    assert inputs["y"] == [f"stream{WIDE}.rounded", "branch.rounded"]
    assert inputs["stream.quantize"][0] == f"stream{WIDE}.rounded" and inputs["branch"][0] == "stream.rounded"


def test_a_tensor_is_int8_for_all_readers_if_the_compiler_makes_it_int8_for_one() -> None:
    model = chain(
        node("Conv", ["x", "a"], "stem"),
        node("Conv", ["stem", "d"], "strided", group=4, strides=[2, 2]),
        node("Conv", ["strided", "w"], "wide"),
        node("GlobalAveragePool", ["wide"], "pool"),
        node("Mul", ["wide", "pool"], "y"),
        weights={"a": np.ones((4, 8, 1, 1)), "d": np.ones((4, 1, 1, 1)), "w": np.ones((4, 4, 1, 1))},
    )

    def taps(*int8_only: str) -> dict[str, Precision]:
        rules = X5.model_copy(update={"int8_only": int8_only})
        return {p.name: p.precision for p in find_quantization_points(model, rules, (), ["strided"])}

    int8, int16 = Precision.INT8, Precision.INT16
    assert taps() == {"x": int8, "stem": int16, "strided": int16, "wide": int16, "pool": int16}
    found = taps("GlobalAveragePool", "strided depthwise Conv")
    assert found == {"x": int8, "stem": int8, "strided": int16, "wide": int8, "pool": int16}


def test_scales_do_not_migrate_where_that_makes_the_weights_worse() -> None:
    """The first channel is the largest, and its weights are too: the factors would widen the range of every row."""
    rng = np.random.default_rng(0)
    sizes = np.array([100.0, *[1.0] * 15])
    model = chain(
        node("Conv", ["x", "a"], "first"),
        node("Relu", ["first"], "relu"),
        node("Conv", ["relu", "w"], "y"),
        weights={
            "a": rng.standard_normal((16, 8, 1, 1)) * sizes.reshape(-1, 1, 1, 1),
            "w": rng.standard_normal((16, 16, 1, 1)) * sizes.reshape(1, -1, 1, 1),
        },
    )
    images = rng.standard_normal((8, 1, 8, 6, 6)).astype(np.float32)
    spec = INT8.model_copy(update={"migrate": True})
    made = quantize_graph(model, (), (), X3, spec, lambda i: images[i], 8, lambda done: None)
    assert "first" not in made.record.factors


def test_int16_is_taken_where_asked_and_where_the_march_has_it(rewritten: Any) -> None:
    products = find_products(rewritten.model, rewritten.keep_float)
    head = products[-1]

    def int16(rules: PrecisionRules, *patterns: str) -> set[str]:
        points = find_quantization_points(rewritten.model, rules, rewritten.keep_float, patterns)
        return {p.name for p in points if p.precision is Precision.INT16 and p.products}

    softmaxes = {n.output[0] for n in rewritten.model.graph.node if n.op_type == "Softmax"}
    assert int16(CPU, "op:Softmax") == softmaxes
    assert int16(X5.model_copy(update={"elsewhere": Precision.FLOAT32}), "op:Softmax") == set(), "its MatMul has int8"
    assert len(int16(CPU, head)) == 1 and int16(X3, head) == set()


def test_reconstruction_beats_the_nearest_integer_on_what_the_layer_sees() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((64, 64)) @ np.diag(np.logspace(0, -2, 64)) @ rng.standard_normal((64, 4096))
    columns, fresh = mixed[:, :1024].astype(np.float32), mixed[:, 1024:]
    conv = node("Conv", ["x", "w"], "y")
    weight = numpy_helper.from_array(rng.standard_normal((32, 64, 1, 1)).astype(np.float32), "w")
    kernel = ConvWeights.of(conv, {"w": weight})
    step = float(np.abs(columns).max()) / 127
    inputs = ConvSamples.of(columns, 1, step, 127 * step)

    def loss(rounding: WeightRounding) -> float:
        made = quantize_weights(kernel, inputs, WeightSpec(rounding=rounding, correct_bias=False), 1.0)
        return float((((made.weight.reshape(32, 64) - kernel.rows[0]) @ fresh) ** 2).mean())

    assert loss(WeightRounding.RECONSTRUCT) < 0.5 * loss(WeightRounding.NEAREST)


def test_bias_correction_takes_the_mean_error_away() -> None:
    rng = np.random.default_rng(0)
    columns = np.abs(rng.standard_normal((16, 1024))).astype(np.float32)
    weight = numpy_helper.from_array(rng.standard_normal((8, 16, 1, 1)).astype(np.float32), "w")
    kernel = ConvWeights.of(node("Conv", ["x", "w"], "y"), {"w": weight})
    inputs = ConvSamples.of(columns, 1, 0.03, 2.0)  # clips a part of them
    made = quantize_weights(kernel, inputs, WeightSpec(rounding=WeightRounding.NEAREST), 1.0)
    assert made.bias is not None
    given = made.weight.reshape(8, 16) @ inputs.rounded[0] + made.bias[:, None]
    np.testing.assert_allclose(given.mean(axis=1), (kernel.rows[0] @ columns).mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("scale", list(WeightScale))
@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_scales_are_never_worse_than_the_maximum(scale: WeightScale, per_channel: bool) -> None:
    rows = np.random.default_rng(0).standard_normal((16, 64)) * np.logspace(-3, 3, 16)[:, None]
    rows[3] = 0

    def loss(scales: Any) -> Any:
        s = scales[:, None]
        return ((rows - np.clip(np.rint(rows / s), -127, 127) * s) ** 2).sum(axis=1)

    spec = WeightSpec(scale=scale, per_channel=per_channel)
    largest = np.abs(rows).max(axis=1) / 127
    plain = np.where(largest > 0, largest, 1.0) if per_channel else np.full(16, largest.max())
    made = weight_scales(rows, spec)
    assert np.all(loss(made) <= loss(plain) + 1e-12) if per_channel else loss(made).sum() <= loss(plain).sum() + 1e-12
    assert (made[3] == 1.0) == per_channel and len(set(made)) == (16 if per_channel else 1)


def test_columns_are_what_a_convolution_reads() -> None:
    """A product of the columns with the weights is the convolution's output at those positions."""
    rng = np.random.default_rng(0)
    value = rng.standard_normal((2, 3, 9, 7)).astype(np.float32)
    weight = rng.standard_normal((5, 3, 3, 2)).astype(np.float32)
    shape = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [2, 3], "kernel_shape": [3, 2]}
    conv = node("Conv", ["x", "w"], "y", **shape)
    made = run(chain(conv, weights={"w": weight}, shape=value.shape), value)
    columns = Window.of(conv, (3, 2)).sample(value, 10_000, rng)
    given = weight.reshape(5, -1) @ columns
    truth = made.transpose(1, 0, 2, 3).reshape(5, -1)
    assert given.shape == truth.shape
    np.testing.assert_allclose(np.sort(given, axis=1), np.sort(truth, axis=1), atol=1e-5)
    onnx.checker.check_model(chain(conv, weights={"w": weight}, shape=value.shape))


def test_a_rare_large_value_that_carries_the_outputs_is_not_clipped() -> None:
    """Only the largest of 65,536 pixels passes the second layer: what is best for the tensor is not for the outputs."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["pixels", "first.w"], ["a"], "first"),
        helper.make_node("Conv", ["a", "second.w", "second.b"], ["b"], "second"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("GlobalAveragePool", ["c"], ["scores"], "pool"),
    ]
    weights = {"first.w": np.eye(3)[:, :, None, None], "second.w": np.eye(3)[:, :, None, None], "second.b": [-10.0] * 3}
    model = of_nodes(nodes, weights, pixels=(1, 3, 256, 256), scores=(1, 3, 1, 1))
    images = rng.standard_normal((6, 1, 3, 256, 256)).astype(np.float32)
    images[:, :, 0, 5, 7] = 14
    spec = QuantizeSpec(migrate=False, int16=())
    made = quantize_graph(model, (), (), CPU, spec, lambda i: images[i], len(images), lambda done: None)
    assert all(tap.threshold > 0.9 * tap.peak for tap in made.record.taps.values())
    assert made.record.levers[1] == "2 of them widened, as clipping there changes the outputs"
    float_, int8 = (np.stack([run(m, image) for image in images]) for m in (model, made.qdq))
    assert np.abs(int8 - float_).max() < 0.1 * np.abs(float_).max()


@pytest.mark.parametrize("weights", [1e-9, 1e-6])
def test_a_bias_beyond_int32_widens_the_scale_of_its_channel(weights: float) -> None:
    """As after a batch normalization with a gamma near 0 (onnxruntime issue 11415)."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["pixels", "first.w", "first.b"], ["a"], "first"),
        helper.make_node("Conv", ["a", "second.w"], ["scores"], "second"),
    ]
    first = rng.standard_normal((4, 3, 1, 1))
    first[1] *= weights
    constants = {"first.w": first, "first.b": [0.1, 0.7, -0.2, 0.0], "second.w": rng.standard_normal((2, 4, 1, 1))}
    model = of_nodes(nodes, constants, pixels=(1, 3, 16, 16), scores=(1, 2, 16, 16))
    images = rng.standard_normal((6, 1, 3, 16, 16)).astype(np.float32)
    for rules in (CPU, X5, X3):
        made = quantize_graph(model, (), (), rules, INT8, lambda i: images[i], len(images), lambda done: None)
        float_, int8 = (np.stack([run(m, image) for image in images]) for m in (model, made.qdq))
        assert np.abs(int8 - float_).max() < 0.05 * np.abs(float_).max()


def test_a_bias_that_does_not_fit_is_an_error_that_names_the_layer() -> None:
    nodes = [helper.make_node("Conv", ["pixels", "first.w", "first.b"], ["scores"], "first")]
    shapes = {"pixels": (1, 3, 4, 4), "scores": (1, 1, 4, 4)}
    model = of_nodes(nodes, {"first.w": np.ones((1, 3, 1, 1)), "first.b": [1.0]}, **shapes)
    points = find_quantization_points(model, CPU, (), ())
    taps = {point.name: Tap(precision=Precision.INT8, threshold=1.0, peak=1.0) for point in points}
    weights = QuantizedWeights(np.ones((1, 3, 1, 1), np.int8), np.array([1e-12]), np.array([1.0]))
    with pytest.raises(StageError, match="first: the bias of channel 0 does not fit int32"):
        to_qdq(model, points, taps, {"first": weights})


def of_nodes(nodes: list[Any], weights: dict[str, Any], **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model of ``nodes`` with one input and one output, of these shapes."""
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes.items())
    constants = [numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def test_what_a_max_pool_reads_is_rounded_once_before_it() -> None:
    """Rounding and the largest value commute; a tool has one threshold for both sides of a MaxPool."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["pixels", "first.w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MaxPool", ["b"], ["c"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "second.w"], ["scores"], "second"),
    ]
    weights = {"first.w": rng.standard_normal((8, 3, 1, 1)), "second.w": rng.standard_normal((4, 8, 1, 1))}
    model = of_nodes(nodes, weights, pixels=(1, 3, 16, 16), scores=(1, 4, 8, 8))
    images = rng.standard_normal((6, 1, 3, 16, 16)).astype(np.float32)
    for rules in (CPU, X5, X3):
        spec = QuantizeSpec(int16=())
        made = quantize_graph(model, (), (), rules, spec, lambda i: images[i], len(images), lambda done: None)
        made.record.write(made.qdq)
        taps = {name: tap for name, tap in made.record.taps.items() if tap.products}
        assert list(taps) == ["pixels", "b"] and taps["b"].precision is Precision.INT8
        agreement = compare_with_onnxruntime(made.qdq, images, rules.rounding, lambda done: None)
        assert agreement.within_one_step, "the integers go through the MaxPool too"
