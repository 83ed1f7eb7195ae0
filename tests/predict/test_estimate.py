"""Latency estimates: monotonic in work, int16 never faster, and labelled as predictions."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy import Target
from bpudeploy.conformance.report import Form
from bpudeploy.predict.estimate import Bound, Estimate, PrecisionMode, estimate_latency
from bpudeploy.predict.march import MarchModel, Term, march_model, modelled_marches
from bpudeploy.predict.prediction import precision_modes, predict
from bpudeploy.predict.workload import NodeWorkload, Workload, count_workload
from bpudeploy.spec.load import load_target
from bpudeploy.spec.target import March
from tests.conformance.graphs import X3, X5, graph, zeros

MARCHES = modelled_marches()
AMOUNT = st.floats(0, 100, allow_nan=False)


@pytest.fixture(scope="module")
def x5() -> Target:
    return load_target("rdk-x5", Path())[0]


def single(march: March, amounts: dict[Term, float], product: str | None = None) -> Workload:
    """Return a network of one node on the BPU."""
    node = NodeWorkload(name="n", op="Conv", segment=0, product=product, feeds_product=False, amounts=amounts)
    return Workload(march=march, form=Form.ORIGINAL, nodes=(node,), segments=1)


def of(march: March, amounts: dict[Term, float], target: Target, width: PrecisionMode = PrecisionMode.INT8) -> Estimate:
    return estimate_latency(single(march, amounts), march_model(march), target.precision, width)


@pytest.mark.parametrize("march", MARCHES)
@given(amounts=st.dictionaries(st.sampled_from(list(Term)), AMOUNT), more=st.sampled_from(list(Term)), by=AMOUNT)
def test_more_work_is_never_predicted_to_be_faster(
    march: March, amounts: dict[Term, float], more: Term, by: float, x5: Target
) -> None:
    before = of(march, amounts, x5).predicted_ms
    after = of(march, amounts | {more: amounts.get(more, 0) + by}, x5).predicted_ms
    assert after >= before
    assert after > before or by < 1e-9


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("product", [None, "Conv", "MatMul"])
def test_int16_is_never_predicted_to_be_faster(march: March, product: str | None, x5: Target) -> None:
    work = single(march, dict.fromkeys(Term, 1.0), product)
    each = [
        estimate_latency(work, march_model(march), x5.precision, w).predicted_ms
        for w in (PrecisionMode.INT8, PrecisionMode.RULES, PrecisionMode.INT16)
    ]
    assert each == sorted(each)
    if product == "Conv":
        assert each[2] > each[0]
    if product == "MatMul":  # X5's takes int8 only
        assert each[2] == each[0]


def test_a_node_on_the_cpu_costs_more_than_on_the_bpu(x5: Target) -> None:
    nodes: list[Any] = [
        ("Conv", ["x", "w"], ["a"], {"kernel_shape": [1, 1]}),
        ("Neg", ["a"], ["b"], {}),
        ("Conv", ["b", "last"], ["y"], {"kernel_shape": [1, 1]}),
    ]
    shapes: dict[str, tuple[int, ...]] = {"x": (1, 64, 32, 32)}
    weights = {"w": zeros(64, 64, 1, 1), "last": zeros(1, 64, 1, 1)}
    fallback = graph(nodes, shapes, weights)
    nodes[1] = ("Relu", ["a"], ["b"], {})
    model = march_model(X3)
    slow, fast = (
        estimate_latency(count_workload(m, X3, model.array), model, x5.precision, PrecisionMode.INT8)
        for m in (fallback, graph(nodes, shapes, weights))
    )
    assert slow.predicted_ms > 2 * fast.predicted_ms
    assert slow.bound is Bound.CPU and slow.cpu_nodes == 1
    (neg,) = [n for n in slow.nodes if n.op == "Neg"]
    assert not neg.on_bpu and neg.predicted_ms > 0.1 * slow.predicted_ms


@pytest.mark.parametrize(
    ("term", "bound"),
    [
        (Term.COMPUTE, Bound.COMPUTE),
        (Term.WEIGHTS, Bound.MEMORY),
        (Term.ATTENTION, Bound.MEMORY),
        (Term.LAYOUT, Bound.LAYOUT),
        (Term.CPU_MACS, Bound.CPU),
        (Term.HANDOVER, Bound.CPU),
        (Term.OUTPUT, Bound.OVERHEAD),
    ],
)
def test_the_bound_is_where_most_of_the_time_goes(term: Term, bound: Bound, x5: Target) -> None:
    found = of(X5, {Term.ELEMENTWISE: 0.1, term: 1000}, x5)
    assert found.bound is bound
    assert sum(found.by_bound_ms.values()) == pytest.approx(found.predicted_ms)
    assert sum(found.by_term_ms.values()) == pytest.approx(found.predicted_ms)
    assert sum(n.predicted_ms for n in found.nodes) == pytest.approx(found.predicted_ms)


@pytest.mark.parametrize("march", MARCHES)
def test_the_interval_holds_the_prediction_and_widens_with_what_is_little_known(march: March, x5: Target) -> None:
    model = march_model(march)
    known = min((t for t in Term), key=lambda t: model.spread[t])
    unknown = max((t for t in Term), key=lambda t: model.spread[t])
    widths_ = []
    for term in (known, unknown):
        e = of(march, {term: 10.0}, x5)
        assert e.predicted_low_ms < e.predicted_ms < e.predicted_high_ms
        widths_.append(log(e.predicted_high_ms / e.predicted_low_ms))
    assert widths_[0] <= widths_[1]
    assert widths_[0] >= 2 * 1.645 * model.residual - 1e-9


def test_a_march_without_figures_says_so_and_is_the_least_certain() -> None:
    ultra = march_model(March.BAYES)
    assert not ultra.families and "no RDK Ultra latency is published" in ultra.basis
    assert ultra.residual > march_model(X5).residual


def test_everything_is_labelled_predicted_and_no_field_looks_measured(x5: Target) -> None:
    model = march_model(X5)
    work = single(X5, dict.fromkeys(Term, 1.0), "Conv")
    found = predict("m", "o", x5, model, work, work)
    assert found.predicted_speedup == 1.0 and [e.width for e in found.restructured] == list(
        precision_modes(x5.precision)
    )

    def held(value: Any) -> None:
        if isinstance(value, dict):
            if any(k.endswith("_ms") and "predicted" not in k and not k.startswith("by_") for k in value):
                raise AssertionError(value)
            assert value.get("provenance", "predicted") == "predicted"
            for inner in value.values():
                held(inner)
        if isinstance(value, list):
            for inner in value:
                held(inner)

    held(json.loads(found.model_dump_json()))


def test_a_march_of_one_number_format_has_one_width() -> None:
    x3 = load_target("rdk-x3", Path())[0]
    assert precision_modes(x3.precision) == (PrecisionMode.RULES,)


def test_every_model_has_every_rate_above_zero_and_says_where_it_is_from() -> None:
    assert set(MARCHES) >= {March.BERNOULLI2, March.BAYES, March.BAYES_E, March.NASH_E}
    for march in MARCHES:
        model: MarchModel = march_model(march)
        assert set(model.rates) == set(model.spread) == set(Term)
        assert all(r > 0 for r in model.rates.values()) and all(0 <= s <= 1 for s in model.spread.values())
        assert model.basis and model.sources


def test_a_cpu_has_no_model() -> None:
    with pytest.raises(KeyError):
        march_model(March.CPU)
