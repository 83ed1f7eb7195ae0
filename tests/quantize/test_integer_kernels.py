"""Integer kernels compared with exact Python integers: sums, fixed-point ratios, rounding, saturation."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.quantize.integer_kernels import conv_sums, fixed_point, matmul_sums, quantize, requantize
from bpudeploy.quantize.window import Window
from bpudeploy.spec.precision import Precision, Rounding

INT8, INT16 = Precision.INT8, Precision.INT16
EVEN, AWAY = Rounding.HALF_EVEN, Rounding.HALF_AWAY
roundings = st.sampled_from(list(Rounding))
precisions = st.sampled_from([INT8, INT16])
kinds: dict[Precision, np.dtype[Any]] = {INT8: np.dtype(np.int8), INT16: np.dtype(np.int16)}


def exact_round(value: Fraction, rounding: Rounding) -> int:
    if rounding is EVEN:
        return round(value)
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def clipped(value: int, precision: Precision) -> int:
    return max(-precision.levels - 1, min(precision.levels, value))


int32s = st.integers(-(2**31), 2**31 - 1)
ratios = st.floats(2.0**-32, 2.0**10) | st.integers(-32, 8).map(lambda e: 2.0**e)


@given(st.lists(int32s, min_size=1, max_size=20), ratios, roundings, precisions)
@settings(max_examples=400, deadline=None)
def test_requantize_is_the_fixed_point_product_rounded_once(
    sums: list[int], ratio: float, rounding: Rounding, precision: Precision
) -> None:
    mantissa, shift = (int(part) for part in fixed_point(np.float64(ratio)))
    assert 2**30 <= mantissa < 2**31
    held = Fraction(mantissa, 2**shift)
    assert abs(held / Fraction(ratio) - 1) <= Fraction(1, 2**31)
    made = requantize(np.array(sums, np.int64), np.float64(ratio), rounding, kinds[precision])
    assert made.dtype == kinds[precision]
    assert made.tolist() == [clipped(exact_round(s * held, rounding), precision) for s in sums]


@pytest.mark.parametrize("ratio", [0.0, 2.0**-80, 2.0**-32, 1 - 2.0**-53, 2.0**31, 2.0**60])
def test_a_ratio_out_of_all_proportion_gives_zero_or_saturates(ratio: float) -> None:
    sums = np.array([-(2**31), -1, 0, 1, 2**31 - 1], np.int64)
    made = requantize(sums, np.float64(ratio), EVEN, kinds[INT16])
    assert made.tolist() == [clipped(round(int(s) * Fraction(ratio)), INT16) for s in sums]


@given(st.lists(st.floats(-300, 300, width=32) | st.integers(-600, 600).map(lambda n: n / 2), min_size=1), roundings)
def test_floats_are_rounded_as_asked(values: list[float], rounding: Rounding) -> None:
    made = quantize(np.array(values, np.float32), np.float32(1), rounding, kinds[INT8])
    assert made.tolist() == [clipped(exact_round(Fraction(v), rounding), INT8) for v in values]


def test_the_float_just_below_a_half_is_rounded_down() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    for rounding in Rounding:
        assert quantize(np.array([below, -below]), np.float32(1), rounding, kinds[INT8]).tolist() == [0, 0]


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    group = draw(st.sampled_from([1, 1, 2, 3]))
    depth = draw(st.sampled_from([1, 1, 2, 5]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 4), (3, 2)]))
    return {
        "group": group,
        "x": (draw(st.integers(1, 2)), group * depth, draw(st.integers(5, 8)), draw(st.integers(7, 9))),
        "weight": (group * draw(st.integers(1, 3)), depth, *kernel),
        "strides": draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
        "pads": draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 3)])),
        "dilations": draw(st.sampled_from([(1, 1), (2, 2), (2, 1)])),
    }


@given(convolutions(), precisions, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_an_exact_convolution(shape: dict[str, Any], precision: Precision, seed: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    info = np.iinfo(kinds[precision])
    x = rng.integers(info.min, info.max, shape["x"], dtype=kinds[precision], endpoint=True)
    w = rng.integers(-128, 127, shape["weight"], dtype=np.int8, endpoint=True)
    bias = rng.integers(-(2**31), 2**31, len(w)).astype(np.int32)
    window = Window(shape["weight"][2:], shape["strides"], shape["pads"], shape["dilations"])
    top, left, bottom, right = shape["pads"]
    wanted = torch.nn.functional.conv2d(
        torch.nn.functional.pad(torch.from_numpy(x.astype(np.float64)), (left, right, top, bottom)),
        torch.from_numpy(w.astype(np.float64)),
        torch.from_numpy(bias.astype(np.float64)),
        shape["strides"],
        0,
        shape["dilations"],
        shape["group"],
    )
    np.testing.assert_array_equal(conv_sums(x, w, bias, window), wanted.numpy().astype(np.int64))


@given(precisions, precisions, st.integers(1, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_batched_product_is_exact(left: Precision, right: Precision, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (
        rng.integers(np.iinfo(kinds[p]).min, np.iinfo(kinds[p]).max, shape, dtype=kinds[p], endpoint=True)
        for p, shape in ((left, (2, 3, 4, depth)), (right, (2, 3, depth, 5)))
    )
    np.testing.assert_array_equal(
        matmul_sums(a, b), np.einsum("...ij,...jk->...ik", a.astype(object), b.astype(object))
    )
