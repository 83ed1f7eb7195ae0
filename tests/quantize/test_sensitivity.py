"""Sensitivity of single taps, compared with networks built for it, and the ranking by error over cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bpudeploy.quantize.findings import PromotionCandidate
from bpudeploy.quantize.promote import promote
from bpudeploy.quantize.scheme import Quantized
from bpudeploy.quantize.sensitivity import can_be_int16, rank
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import Observer, QuantizeSpec
from tests.quantize.networks import CPU, INT8, X3, X5, Chain, corrections_of, make, run

FLAT = dict[str, Any]()


def ranked(
    made: Quantized, images: Any, rules: PrecisionRules = CPU, corrections: Any = FLAT
) -> dict[str, PromotionCandidate]:
    found = rank(
        made.prepared, made.qdq, rules, images, lambda taps: 1.0 + 0.1 * len(list(taps)), corrections, lambda done: None
    )
    return {c.tap: c for c in found}


def alone(made: Quantized, name: str, images: Any, corrections: Any = FLAT) -> float:
    """Return the error of a network whose other taps are all int16, against one where this tap is too."""
    int8 = [n for n, tap in made.record.taps.items() if tap.precision is Precision.INT8]
    all_, others = (promote(made.qdq, [n for n in int8 if n != left], corrections) for left in ("", name))
    x, y = (np.concatenate([run(model, i).ravel() for i in images]).astype(float) for model in (all_, others))
    return float(((x - y) ** 2).mean() / x.var())


def test_an_error_is_that_of_a_network_with_this_tap_in_int8_alone(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images)
    found = ranked(made, images[:3])
    assert next(iter(found)) == max(found, key=lambda n: found[n].error)
    for name in list(found)[:3]:
        assert found[name].error == pytest.approx(alone(made, name, images[:3]), rel=0.15)
    slight = list(found)[len(found) // 2]  # so slight that single values which round the other way on a CPU show
    assert 0.5 < found[slight].error / alone(made, slight, images[:3]) < 2


def test_a_bias_makes_up_for_int8_only_where_it_is_int8(rewritten: Any, images: Any) -> None:
    spec = QuantizeSpec(observer=Observer.PERCENTILE, percentile=95, int16=(), migrate=False)
    made = make(rewritten, images, spec)
    corrections = corrections_of(made, images)
    found = ranked(made, images[:2], corrections=corrections)
    worst = next(iter(found))
    assert found[worst].error == pytest.approx(alone(made, worst, images[:2], corrections), rel=0.2)


def test_it_is_the_same_every_time_and_counts_its_runs(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images)
    runs: list[int] = []
    first = rank(made.prepared, made.qdq, CPU, images[:2], lambda taps: 1.1, {}, runs.append)
    again = rank(made.prepared, made.qdq, CPU, images[:2], lambda taps: 1.1, {}, lambda done: None)
    assert first == again
    taps = [name for name, tap in made.record.taps.items() if tap.products]
    assert {c.tap for c in first} == set(taps) and runs == list(range(1, 2 * len(taps) + 1))
    assert all(c.products == made.record.taps[c.tap].products and c.cost == pytest.approx(0.1) for c in first)


def test_the_order_is_error_over_cost_and_what_is_free_comes_first(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images)
    costs = {name: 0.1 * (i % 3) for i, name in enumerate(made.record.taps)}
    found = rank(
        made.prepared,
        made.qdq,
        CPU,
        images[:1],
        lambda taps: 1.0 + sum(costs[t] for t in taps),
        {},
        lambda done: None,
    )
    free = [c for c in found if c.cost == 0]
    dear = [c for c in found if c.cost]
    assert list(found) == [*free, *dear] and free and dear
    assert [c.error for c in free] == sorted((c.error for c in free), reverse=True)
    ratios = [c.error / c.cost for c in dear if c.cost]
    assert ratios == sorted(ratios, reverse=True)


def test_a_march_decides_what_can_be_int16(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images, INT8, X5)
    matmuls = {n.name for n in made.qdq.graph.node if n.op_type == "MatMul"}
    able = can_be_int16(made.qdq, X5)
    assert able and all(not matmuls & set(made.record.taps[name].products) for name in able)
    found = ranked(made, images[:1], X5)
    assert {name for name, c in found.items() if c.cost is not None} == set(able)
    costs = [c.cost is None for c in found.values()]
    assert costs == sorted(costs), "what stays int8 stands last"
    assert can_be_int16(make(rewritten, images, INT8, X3).qdq, X3) == ()


def test_taps_that_are_int16_already_are_no_candidates(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images, INT8.model_copy(update={"int16": ("op:Softmax",)}))
    wide = {name for name, tap in made.record.taps.items() if tap.precision is Precision.INT16}
    assert wide and not wide & set(ranked(made, images[:1]))


@pytest.mark.parametrize("rules", [CPU, X5, X3], ids=["cpu", "x5", "x3"])
def test_every_form_of_a_tap_has_a_switch(rules: PrecisionRules) -> None:
    """A tap that others read in a wider form, one behind an activation, and the network's own input."""
    chain = Chain(branch=True)
    made = make(chain, chain.images, INT8, rules)
    before = made.prepared.SerializeToString()
    found = ranked(made, chain.images[:2], rules)
    assert set(found) == {"pixels", "b"} and all(c.error > 0 for c in found.values())
    assert made.prepared.SerializeToString() == before
    assert isinstance(made.prepared, onnx.ModelProto)
