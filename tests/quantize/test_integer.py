"""The integer reference: exact compared with Python integers, within one step of onnxruntime, errors reported."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.quantize.agreement import Agreement, SumRange
from bpudeploy.quantize.integer import compare_with_onnxruntime
from bpudeploy.quantize.integer_graph import IntegerGraph
from bpudeploy.quantize.scheme import quantize_graph
from bpudeploy.spec.precision import Precision, PrecisionRules, Rounding
from bpudeploy.spec.quantize import QuantizeSpec
from tests.quantize.networks import QdqBuilder
from tests.quantize.test_integer_kernels import (
    AWAY,
    EVEN,
    INT8,
    INT16,
    clipped,
    convolutions,
    exact_round,
    precisions,
    roundings,
)


@dataclass(frozen=True)
class Result:
    """The integers of each tap, the outputs, and the range of each product's sums."""

    taps: dict[str, Any]
    outputs: dict[str, Any]
    sums: dict[str, SumRange]


def run_integers(model: onnx.ModelProto, feeds: dict[str, Any], rounding: Rounding) -> Result:
    run = IntegerGraph(model).run(feeds, rounding)
    return Result(run.taps, run.outputs, run.sums)


def compared(model: Any, images: Any, rounding: Rounding) -> Agreement:
    return compare_with_onnxruntime(model, images, rounding, lambda done: None)


HALVES = [-5, -3, -1, 1, 3, 5]
TO_EVEN, AWAY_FROM_ZERO = [-2, -2, 0, 0, 2, 2], [-3, -2, -1, 1, 2, 3]


@pytest.mark.parametrize(("rounding", "wanted"), [(EVEN, TO_EVEN), (AWAY, AWAY_FROM_ZERO)])
def test_exact_halves_go_where_they_are_asked_to(rounding: Rounding, wanted: list[int]) -> None:
    """In a product whose sum is divided by two, and where a float goes into a tap."""
    sketch = QdqBuilder(x=(1, 1, 1, 6))
    x = sketch.tap("x", 1.0)
    sketch.tap(sketch.conv(x, 1.0, np.ones((1, 1, 1, 1), np.int8), np.ones(1), None, "y"), 2.0)
    model = sketch.model("y.rounded")
    feed = np.array(HALVES, np.float32).reshape(1, 1, 1, 6)
    assert run_integers(model, {"x": feed}, rounding).taps["y"].ravel().tolist() == wanted
    halves = run_integers(model, {"x": feed / np.float32(2)}, rounding).taps["x"].ravel().tolist()
    assert halves == wanted
    agreement = compared(model, [feed], rounding)
    assert agreement.within_one_step
    assert agreement.taps["y"].forced.differing == sum(a != b for a, b in zip(wanted, TO_EVEN, strict=True))


@given(convolutions(), precisions, precisions, roundings, st.sampled_from(["", "Relu", "Clip"]), st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_convolution_is_one_step_from_onnxruntime(
    shape: dict[str, Any], into: Precision, out: Precision, rounding: Rounding, activation: str, random: Any
) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    sketch = QdqBuilder(x=shape["x"])
    scale = 3.0 / into.levels
    x = sketch.tap("x", scale, into)
    w = rng.integers(-127, 127, shape["weight"], dtype=np.int8, endpoint=True)
    scales = rng.uniform(1e-3, 1e-1, len(w))
    bias = rng.integers(-5000, 5000, len(w)).astype(np.int32) if random.random() < 0.7 else None
    attributes = {name: shape[name] for name in ("group", "strides", "pads", "dilations")}
    y = sketch.conv(x, scale, w, scales, bias, "y", **attributes)
    if activation == "Clip":
        y = sketch.op("Clip", [y, "", sketch.constant("six", np.float32(6.0))], "z")
    elif activation:
        y = sketch.op("Relu", [y], "z")
    reach = 8.0 if activation == "Clip" else 100.0 * scales.max() * w[0].size ** 0.5
    sketch.tap(y, reach / out.levels, out)
    images = [rng.standard_normal(shape["x"]).astype(np.float32) for _ in range(2)]
    agreement = compared(sketch.model(f"{y}.rounded"), images, rounding)
    assert agreement.within_one_step and agreement.images == 2 and not agreement.overflowed
    tap = agreement.taps[y]
    assert tap.made_by == (activation or "Conv")
    # of a small sum of products many may lie just between two steps, where float and integers round apart
    assert out is INT16 or tap.forced.differing <= 1 + 0.2 * tap.forced.elements
    if rounding is EVEN:
        assert agreement.taps["x"].forced.differing == 0, "the same division, the same rounding"


def attention(values: Precision = INT8) -> Any:
    """Return two heads of attention over 12 tokens of 8 channels: views before, between and after the products."""
    rng = np.random.default_rng(5)
    sketch = QdqBuilder(x=(1, 16, 1, 12))
    scale = 4.0 / 127
    x = sketch.tap("x", scale)
    parts = {}
    for name in "qkv":
        w = rng.integers(-127, 127, (16, 16, 1, 1), dtype=np.int8, endpoint=True)
        bias = rng.integers(-900, 900, 16).astype(np.int32)
        sketch.conv(x, scale, w, rng.uniform(1e-3, 4e-3, 16), bias, name)
        rounded = sketch.tap(name, 4.0 / values.levels, values)
        heads = sketch.op("Reshape", [rounded, sketch.constant("heads", np.array([1, 2, 8, 12]))], f"{name}.heads")
        parts[name] = heads if name == "k" else sketch.op("Transpose", [heads], f"{name}.t", perm=[0, 1, 3, 2])
    ends = [sketch.constant(n, np.array([v])) for n, v in (("start", 1), ("end", 9), ("axis", 2))]
    some = sketch.op("Slice", [parts["q"], *ends], "some")
    logits = sketch.matmul(some, parts["k"], "logits")
    softmax = sketch.op("Softmax", [logits], "softmax", axis=-1)
    sketch.matmul(sketch.tap(softmax, 1.0 / 32767, INT16), parts["v"], "sum")
    sketch.tap("sum", 3.0 / 127)
    square = sketch.op("Mul", ["sum.rounded", "sum.rounded"], "square")
    return sketch.model(square, "logits")


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("values", [INT8, INT16])
def test_attention_with_views_is_one_step_from_onnxruntime(values: Precision, rounding: Rounding) -> None:
    rng = np.random.default_rng(6)
    images = [rng.standard_normal((1, 16, 1, 12)).astype(np.float32) for _ in range(4)]
    model = attention(values)
    agreement = compared(model, images, rounding)
    assert agreement.within_one_step and not agreement.overflowed
    assert set(agreement.taps) == {"x", "q", "k", "v", "softmax", "sum"}
    assert set(agreement.sums) == {"q", "k", "v", "logits", "sum"}
    assert agreement.taps["softmax"].made_by == "Softmax" and agreement.taps["softmax"].precision is INT16
    assert agreement.outputs["logits"].forced < 1e-5
    assert agreement.taps["q"].forced.elements == 4 * 16 * 12
    assert Agreement.model_validate_json(agreement.model_dump_json()) == agreement
    for tap in agreement.taps.values():
        assert tap.free.elements == tap.forced.elements and tap.forced.share < 0.2
    same = run_integers(model, {"x": images[0]}, rounding)
    assert same.outputs["square"].shape == (1, 2, 8, 8) and same.taps["softmax"].dtype == np.int16
    np.testing.assert_array_equal(run_integers(model, {"x": images[0]}, rounding).taps["sum"], same.taps["sum"])


@pytest.mark.parametrize("elsewhere", [Precision.FLOAT32, INT16])
def test_a_vision_transformer_is_one_step_from_onnxruntime(rewritten: Any, images: Any, elsewhere: Precision) -> None:
    made = quantize_graph(
        rewritten.model,
        rewritten.keep_float,
        (),
        PrecisionRules(elsewhere=elsewhere),
        QuantizeSpec(),
        lambda index: images[index],
        4,
        lambda done: None,
    )
    made.record.write(made.qdq)
    done: list[int] = []
    agreement = compare_with_onnxruntime(made.qdq, images[4:], EVEN, done.append)
    assert done == [1, 2] and agreement.within_one_step and not agreement.overflowed
    assert agreement.taps.keys() == made.record.taps.keys() and agreement.sums.keys() == set(made.record.products)
    assert agreement.outputs["logits"].forced < 1e-5 and agreement.outputs["logits"].free < 0.1


# What is between taps, and what is read as float.


def test_a_tap_narrows_another_one_by_their_ratio() -> None:
    sketch = QdqBuilder(x=(1, 64))
    sketch.tap(sketch.tap("x", 2.0**-13, INT16, "x.wide"), 2.0**-9, INT8, "x")
    image = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 64)).astype(np.float32)
    for rounding in Rounding:
        model = sketch.model("x.rounded", "x.wide.rounded")
        made = run_integers(model, {"x": image}, rounding).taps
        sixteenths = [Fraction(int(v), 16) for v in made["x.wide"].ravel()]
        assert made["x"].ravel().tolist() == [clipped(exact_round(v, rounding), INT8) for v in sixteenths]
        assert any(v.denominator == 2 for v in sixteenths), "halves are among them"
        assert compared(model, [image], rounding).within_one_step


def test_a_sum_is_read_as_float_and_by_a_tap_at_once() -> None:
    rng = np.random.default_rng(1)
    sketch = QdqBuilder(x=(1, 3, 4, 4))
    x = sketch.tap("x", 0.02)
    w = rng.integers(-127, 127, (4, 3, 3, 3), dtype=np.int8)
    sketch.conv(x, 0.02, w, np.full(4, 0.01), None, "y", pads=[1, 1, 1, 1])
    sketch.tap("y", 0.1)
    sketch.op("Add", ["y", "y.rounded"], "z")
    agreement = compared(sketch.model("z"), [rng.standard_normal((1, 3, 4, 4)).astype(np.float32)], AWAY)
    assert agreement.within_one_step and agreement.outputs["z"].forced < 1e-1


def test_a_convolution_that_stays_float_is_left_alone() -> None:
    sketch = QdqBuilder(x=(1, 4, 1, 5))
    sketch.op("Mul", ["x", "x"], "square")
    sketch.constant("mean.weight", np.full((1, 4, 1, 1), 0.25, np.float32))
    sketch.op("Conv", ["square", "mean.weight"], "mean")
    sketch.tap("mean", 0.01)
    image = np.random.default_rng(1).standard_normal((1, 4, 1, 5)).astype(np.float32)
    agreement = compared(sketch.model("mean.rounded"), [image], EVEN)
    assert not agreement.sums and agreement.taps["mean"].forced.differing == 0


def test_a_run_frees_what_nobody_reads_any_more() -> None:
    graph = IntegerGraph(attention())
    run = graph.run({"x": np.ones((1, 16, 1, 12), np.float32)}, EVEN)
    assert not run.values and run.outputs.keys() == {"square", "logits"}


# Saturation and overflow.


def test_what_is_too_large_saturates_as_quantizelinear_does() -> None:
    sketch = QdqBuilder(x=(1, 1, 1, 4))
    x = sketch.tap("x", 1.0)
    sketch.conv(x, 1.0, np.full((1, 1, 1, 1), 100, np.int8), np.ones(1), None, "y")
    sketch.tap("y", 1.0)
    image = np.array([-500, -1, 1, 500], np.float32).reshape(1, 1, 1, 4)
    model = sketch.model("y.rounded")
    made = run_integers(model, {"x": image}, EVEN).taps
    assert made["x"].ravel().tolist() == [-128, -1, 1, 127] and made["y"].ravel().tolist() == [-128, -100, 100, 127]
    assert compared(model, [image], EVEN).taps["y"].forced.differing == 0


def test_a_sum_over_int32_is_reported_and_not_wrapped() -> None:
    sketch = QdqBuilder(x=(1, 4), y=(4, 1))
    a, b = sketch.tap("x", 1.0, INT16), sketch.tap("y", 1.0, INT16)
    sketch.matmul(a, b, "z")
    sketch.tap("z", float(2**18), INT16)
    model = sketch.model("z.rounded")
    feeds = {"x": np.full((1, 4), 32767, np.float32), "y": np.full((4, 1), -32767, np.float32)}
    made = run_integers(model, feeds, EVEN)
    assert made.sums["z"].overflows == 1 and made.sums["z"].peak == 4 * 32767**2
    assert made.taps["z"].item() == -(2**13), "saturated at -2^31"


def test_attention_in_int16_on_both_sides_can_overflow_int32() -> None:
    """A row of the softmax sums to 1: in steps, to 32767 / threshold; times 32767 it is over 2^31 for a small one."""

    def weighed(values: Precision) -> Agreement:
        sketch = QdqBuilder(x=(1, 12, 12))
        softmax = sketch.tap(sketch.op("Softmax", ["x"], "softmax", axis=-1), 0.1 / 32767, INT16)
        sketch.matmul(softmax, sketch.tap("x", 1.0 / values.levels, values), "sum")
        sketch.tap("sum", 1.0 / 127)
        return compared(sketch.model("sum.rounded"), [np.full((1, 12, 12), 0.9, np.float32)], EVEN)

    wide, narrow = weighed(INT16), weighed(INT8)
    assert wide.overflowed == wide.exceptions == ("sum",) and wide.sums["sum"].overflows == 144
    assert wide.sums["sum"].peak > 2**32 and wide.taps["sum"].forced.worst > 50
    assert not narrow.overflowed and narrow.within_one_step


# A graph that is wrong.


def simple() -> QdqBuilder:
    rng = np.random.default_rng(0)
    sketch = QdqBuilder(x=(1, 3, 5, 5))
    x = sketch.tap("x", 0.02)
    w = rng.integers(-127, 127, (4, 3, 3, 3), dtype=np.int8)
    sketch.conv(x, 0.02, w, rng.uniform(0.01, 0.02, 4), np.full(4, 9000, np.int32), "y")
    sketch.tap("y", 0.2)
    return sketch


IMAGE = np.random.default_rng(3).standard_normal((1, 3, 5, 5)).astype(np.float32)


def test_a_bias_with_a_wrong_scale_is_caught() -> None:
    sketch = simple()
    assert compared(sketch.model("y.rounded"), [IMAGE], EVEN).within_one_step
    sketch.constants["y.bias.scale"] = sketch.constants["y.bias.scale"] * np.float32(1.1)
    wrong = compared(sketch.model("y.rounded"), [IMAGE], EVEN)
    assert wrong.exceptions == ("y",) and wrong.taps["y"].forced.worst > 1 and wrong.taps["x"].forced.worst == 0


def test_the_worst_exception_comes_first() -> None:
    agreement = compared(simple().model("y.rounded"), [IMAGE], EVEN)
    tap = agreement.taps["y"]
    steps = {"a": (2, 5), "b": (9, 1), "c": (1, 70), "d": (2, 6)}
    taps = {
        name: tap.model_copy(update={"forced": tap.forced.model_copy(update={"worst": w, "differing": d})})
        for name, (w, d) in steps.items()
    }
    assert agreement.model_copy(update={"taps": taps}).exceptions == ("b", "d", "a")


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [
        ("x.scale", np.float32(0.021), "its record"),
        ("x.scale", np.full(3, 0.02, np.float32), "same scalar scale"),
        ("zero.int8", np.int8(3), "zero point"),
        ("y.weight.zero", np.ones(4, np.int8), "zero point"),
    ],
)
def test_a_graph_that_is_not_of_the_form_is_refused(constant: str, value: Any, message: str) -> None:
    sketch = simple()
    sketch.constants[constant] = value
    with pytest.raises(ValueError, match=message):
        IntegerGraph(sketch.model("y.rounded"))


def test_a_graph_that_is_not_as_recorded_is_refused() -> None:
    sketch = simple()
    back = next(node for node in sketch.nodes if node.name == "x.dequantize")
    back.input[1] = sketch.constant("other", np.float32(0.03))
    with pytest.raises(ValueError, match=r"x\.quantize and x\.dequantize do not have the same scalar scale"):
        IntegerGraph(sketch.model("y.rounded"))
    sketch = simple()
    sketch.taps["z"] = sketch.taps.pop("y")
    with pytest.raises(ValueError, match=r"differ in taps: \['y', 'z'\]"):
        IntegerGraph(sketch.model("y.rounded"))
    sketch = simple()
    conv = next(node for node in sketch.nodes if node.name == "y")
    conv.input[0] = "x"
    with pytest.raises(ValueError, match="y is recorded as an integer product, but reads floats"):
        run_integers(sketch.model("y.rounded"), {"x": IMAGE}, EVEN)
    with pytest.raises(ValueError, match="x is NaN"):
        run_integers(simple().model("y.rounded"), {"x": IMAGE * np.nan}, EVEN)
    with pytest.raises(ValueError, match="no images"):
        compared(simple().model("y.rounded"), [], EVEN)
    bare = simple().model("y.rounded")
    del bare.metadata_props[:]
    with pytest.raises(KeyError):
        IntegerGraph(bare)
