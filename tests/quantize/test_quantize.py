"""INT8: observers that do not depend on order, and a QDQ graph that stays close to float."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bpudeploy.errors import StageError
from bpudeploy.quantize.calibrate import observe
from bpudeploy.quantize.observer import LEVELS, SMALLEST, Histogram, threshold
from bpudeploy.quantize.qdq import to_qdq, weight_scales
from bpudeploy.quantize.taps import find_taps
from bpudeploy.spec.recipe import Observer

floats = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
batches = st.lists(arrays(np.float32, st.integers(1, 30), elements=floats), min_size=1, max_size=6)


def histogram(parts: list[Any]) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(part)
    return made


@given(batches, st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_histogram_does_not_depend_on_order_or_batches(parts: list[Any], rng: Any) -> None:
    shuffled = list(parts)
    rng.shuffle(shuffled)
    one, other = histogram(parts), histogram(shuffled)
    whole = histogram([np.concatenate(parts)])
    for made in (other, whole):
        assert made.maximum == one.maximum and made.counts.sum() == one.counts.sum()
        if made.edge == one.edge:
            np.testing.assert_array_equal(made.counts, one.counts)


@given(batches)
@settings(max_examples=100, deadline=None)
def test_a_histogram_counts_everything_in_a_fixed_space(parts: list[Any]) -> None:
    made = histogram(parts)
    assert made.counts.sum() == sum(p.size for p in parts) and len(made.counts) == 2048
    assert made.maximum == max(float(np.abs(p).max()) for p in parts)


@given(batches)
@settings(max_examples=60, deadline=None)
def test_thresholds_keep_their_promises(parts: list[Any]) -> None:
    made = histogram(parts)
    limits = {o: threshold(made, o, 99.0) for o in Observer}
    largest = made.maximum if made.maximum >= SMALLEST else 1.0
    assert limits[Observer.MINMAX] == largest
    assert all(0 < limit <= largest for limit in limits.values())
    at = [threshold(made, Observer.PERCENTILE, p) for p in (60.0, 90.0, 99.0, 100.0)]
    assert all(low <= high for low, high in pairwise(at))


def test_mse_beats_minmax_on_a_tail_and_equals_it_on_a_uniform() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(100_000), [60.0]]).astype(np.float32)

    def loss(limit: float) -> float:
        scale = limit / LEVELS
        return float(((x - np.clip(np.rint(x / scale), -LEVELS, LEVELS) * scale) ** 2).mean())

    made = histogram([x])
    assert loss(threshold(made, Observer.MSE, 100)) < 0.7 * loss(threshold(made, Observer.MINMAX, 100))
    uniform = histogram([rng.uniform(-1, 1, 100_000).astype(np.float32)])
    assert threshold(uniform, Observer.MSE, 100) > 0.95


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Histogram().add(np.array([0.0, value], dtype=np.float32))


def test_weight_scales_are_per_row_and_never_worse_than_the_maximum() -> None:
    rows = np.random.default_rng(0).standard_normal((16, 64)) * np.logspace(-3, 3, 16)[:, None]
    rows[3] = 0

    def loss(scales: Any) -> Any:
        s = scales[:, None]
        return ((rows - np.clip(np.rint(rows / s), -LEVELS, LEVELS) * s) ** 2).sum(axis=1)

    plain = np.where(np.abs(rows).max(axis=1) > 0, np.abs(rows).max(axis=1) / LEVELS, 1.0)
    assert np.all(loss(weight_scales(rows)) <= loss(plain) + 1e-12)
    assert weight_scales(rows)[3] == 1.0


@pytest.fixture(scope="module")
def graph() -> Any:
    """Return a restructured tiny vision transformer."""
    import torch

    from bpudeploy.restructure.export import network_of_module
    from bpudeploy.restructure.rewrite import rewrite
    from bpudeploy.stages.timm_models import create

    torch.manual_seed(0)
    model = create("test_vit", image_size=64, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return rewrite(network_of_module(model, (1, 3, 64, 64)))


IMAGES = np.random.default_rng(2).standard_normal((6, 1, 3, 64, 64)).astype(np.float32)


def session(model: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_qdq_graph_runs_close_to_float(graph: Any) -> None:
    from onnx import numpy_helper

    taps = find_taps(graph.model, frozenset(graph.keep_float))
    histograms = observe(graph.model, taps.observed, iter(IMAGES), lambda done: None)
    limits = {name: threshold(h, Observer.MSE, 100) for name, h in histograms.items()}
    made = to_qdq(graph.model, taps, limits)
    float_session, int8_session = session(graph.model), session(made)
    for image in IMAGES:
        a, b = (s.run(None, {"pixels": image})[0].ravel() for s in (float_session, int8_session))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    weights = [v for n, v in constants.items() if n.endswith(".quantized") and v.dtype == np.int8]
    assert weights and all(np.abs(w.astype(int)).max() <= LEVELS for w in weights)
    for name in taps.root:
        scale = constants[f"{name}.scale"]
        assert scale.shape == () and scale == np.float32(limits[taps.root[name]] / LEVELS)
    assert {n.name for n in graph.model.graph.node} <= {n.name for n in made.graph.node}, "node names stay"


def test_observing_is_one_pass_and_its_order_does_not_matter(graph: Any) -> None:
    taps = find_taps(graph.model, frozenset(graph.keep_float)).observed
    passes: list[int] = []
    forward = observe(graph.model, taps, iter(IMAGES), passes.append)
    backward = observe(graph.model, taps, iter(IMAGES[::-1]), lambda done: None)
    assert passes == [1, 2, 3, 4, 5, 6]
    for name in taps:
        assert forward[name].maximum == backward[name].maximum
        np.testing.assert_array_equal(forward[name].counts, backward[name].counts)


def test_an_image_that_overflows_names_the_tensor(graph: Any) -> None:
    taps = find_taps(graph.model, frozenset(graph.keep_float)).observed
    with pytest.raises(StageError, match="calibration image 1 makes"):
        observe(graph.model, taps, iter([np.full((1, 3, 64, 64), np.nan, np.float32)]), lambda done: None)
