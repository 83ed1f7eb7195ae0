"""Promotion to int16: only the named taps and the biases that depend on them change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bpudeploy.quantize.promote import promote, without_corrections
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.scheme import Quantized
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import Observer, QuantizeSpec
from tests.quantize.networks import INT8, X5, Chain, constant, corrections_of, make, run

INT16 = Precision.INT16


@pytest.fixture(scope="module")
def made(rewritten: Any, images: Any) -> Quantized:
    return make(rewritten, images)


def names(made: Quantized) -> list[str]:
    return [name for name, tap in made.record.taps.items() if tap.precision is Precision.INT8]


def test_with_every_tap_in_int16_only_the_weights_are_rounded(made: Quantized, images: Any) -> None:
    wide = promote(made.qdq, names(made))
    onnx.checker.check_model(wide)
    for image in images:
        exact, int8, int16 = (run(model, image).ravel() for model in (made.prepared, made.qdq, wide))
        assert np.abs(int16 - exact).max() < 1e-3 * np.ptp(exact) < np.abs(int8 - exact).max()
    record = QuantizeRecord.read(wide)
    assert {tap.precision for tap in record.taps.values()} == {INT16}
    assert all(tap.threshold == 2 * tap.peak == 2 * made.record.taps[name].peak for name, tap in record.taps.items())
    assert {"zero.int8"}.isdisjoint(t.name for t in wide.graph.initializer), "what nobody reads is gone"


def test_one_tap_changes_its_own_roundings_and_biases_only(made: Quantized) -> None:
    before = made.qdq.SerializeToString()
    name = next(n for n in names(made) if f"{made.record.taps[n].products[0]}.bias" in initializers(made))
    wide = promote(made.qdq, [name])
    assert made.qdq.SerializeToString() == before, "the model that is given stays"
    tap = made.record.taps[name]
    touched = {f"{name}.quantize", f"{name}.dequantize"}
    for old, new in zip(made.qdq.graph.node, wide.graph.node, strict=True):
        assert (old == new) == (old.name not in touched), old.name
        if new.name in touched:
            assert new.domain == "com.microsoft" and f"{name}.int16" in (*new.input, *new.output)
    scales = {t.name: numpy_helper.to_array(t) for t in made.qdq.graph.initializer}
    changed = {
        t.name
        for t in wide.graph.initializer
        if t.name in scales and not np.array_equal(numpy_helper.to_array(t), scales[t.name])
    }
    convs = [p for p in tap.products if f"{p}.bias.quantized" in scales]
    assert convs and changed == {
        f"{name}.scale",
        *(f"{c}.bias.{part}" for c in convs for part in ("quantized", "scale")),
    }
    for conv in convs:
        held = [constant(m, f"{conv}.bias.quantized").astype(float) for m in (made.qdq, wide)]
        steps = [constant(m, f"{conv}.bias.scale").astype(float) for m in (made.qdq, wide)]
        weight, scale = constant(wide, f"{conv}.weight.scale"), np.float32(2 * tap.peak / 32767)
        np.testing.assert_allclose(steps[1], weight * scale, rtol=1e-6)
        np.testing.assert_allclose(held[1] * steps[1], held[0] * steps[0], atol=float(steps[1].max()))


def test_it_does_not_matter_in_how_many_goes(made: Quantized, images: Any) -> None:
    first, second = names(made)[:5], names(made)[5:9]
    once, twice = promote(made.qdq, [*first, *second]), promote(promote(made.qdq, first), second)
    assert QuantizeRecord.read(once) == QuantizeRecord.read(twice)
    np.testing.assert_array_equal(run(once, images[0]), run(twice, images[0]))
    assert promote(made.qdq, []).SerializeToString() == made.qdq.SerializeToString()


def test_what_cannot_be_promoted_is_refused(made: Quantized) -> None:
    name = names(made)[0]
    for taps in ([name, name], [*names(made)[1:3], names(made)[1]]):
        with pytest.raises(ValueError, match="promoted twice"):
            promote(made.qdq, taps)
    with pytest.raises(ValueError, match="promoted twice, or was not int8"):
        promote(promote(made.qdq, [name]), [name])
    with pytest.raises(ValueError, match="there is no tap nowhere"):
        promote(made.qdq, ["nowhere"])


def test_beside_a_wide_form_the_narrow_one_becomes_as_wide() -> None:
    chain = Chain(branch=True)
    made = make(chain, chain.images, INT8, X5)
    assert made.record.taps["b.wide"].precision is INT16 and names(made) == ["pixels", "b"]
    wide = promote(made.qdq, ["pixels", "b"])
    onnx.checker.check_model(wide)
    exact = run(made.prepared, chain.images[0])
    assert np.abs(run(wide, chain.images[0]) - exact).max() < 5e-3 * np.ptp(exact)


def test_a_conv_without_a_bias_has_none_afterwards_and_int32_is_not_left() -> None:
    chain = Chain()
    made = make(chain, chain.images)
    huge = onnx.ModelProto()
    huge.CopyFrom(made.qdq)
    (bias,) = (t for t in huge.graph.initializer if t.name == "first.bias.quantized")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, 2**31 - 1, np.int32), bias.name))
    wide = promote(huge, ["pixels", "b"])
    (second,) = (n for n in wide.graph.node if n.name == "second")
    assert len(second.input) == 2
    assert (constant(wide, "first.bias.quantized") == 2**31 - 1).all()


def test_biases_no_longer_make_up_for_what_is_gone(rewritten: Any, images: Any) -> None:
    """With thresholds far too low, correct_bias puts the mean of what is cut off into the biases."""
    spec = QuantizeSpec(observer=Observer.PERCENTILE, percentile=90, int16=(), migrate=False)
    made = make(rewritten, images, spec)
    corrections = corrections_of(made, images)
    assert set(corrections) == {
        p for t in made.record.taps.values() for p in t.products if f"{p}.bias" in initializers(made)
    }
    exact = [run(rewritten.model, image).ravel() for image in images]

    def error(model: onnx.ModelProto) -> float:
        return float(sum(((run(model, i).ravel() - e) ** 2).sum() for i, e in zip(images, exact, strict=True)))

    kept, freed = promote(made.qdq, names(made)), promote(made.qdq, names(made), corrections)
    assert error(freed) < 0.75 * error(kept)
    prepared = without_corrections(made.prepared, made.record, names(made), corrections)
    for image in images:
        a, b = run(prepared, image).ravel(), run(freed, image).ravel()
        assert np.abs(a - b).max() < 1e-2 * np.ptp(a), "both forms get the same correction"


def initializers(made: Quantized) -> set[str]:
    return {t.name for t in made.prepared.graph.initializer}


def test_a_shift_is_what_int8_adds_to_a_bias() -> None:
    """The same weights, corrected for int8 and for int16 inputs: the biases differ by the correction."""
    chain = Chain()
    spec = INT8.model_copy(update={"weights": INT8.weights.model_copy(update={"correct_bias": True})})
    narrow, wide = (make(chain, chain.images, spec.model_copy(update={"int16": taps})) for taps in ((), ("*",)))
    corrections = corrections_of(narrow, chain.images)
    assert set(corrections) == {"first", "second"}
    for conv, correction in corrections.items():
        biases = [constant(made.prepared, f"{conv}.bias") for made in (narrow, wide)]
        np.testing.assert_allclose(correction, biases[0] - biases[1], atol=0.02 * np.abs(correction).max() + 3e-4)
