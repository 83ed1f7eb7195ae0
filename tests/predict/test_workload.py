"""Workloads: counts from shapes, rounding to the MAC array, folding, transfers between BPU and CPU."""

from __future__ import annotations

from typing import Any

import pytest

from bpudeploy.predict.march import MacArray, Term
from bpudeploy.predict.workload import Workload, count_workload
from bpudeploy.spec.target import March
from tests.conformance.graphs import S100, X3, X5, graph, zeros

ARRAY = MacArray(channels_in=32, channels_out=32)
SIDE = 16


def conv(channels: int, makes: int, kernel: int = 1, groups: int = 1, march: March = X5) -> Workload:
    """Return one convolution over 16x16 positions, followed by a Relu."""
    pad = kernel // 2
    shape: dict[str, Any] = {"kernel_shape": [kernel, kernel], "pads": [pad] * 4, "group": groups}
    nodes = [("Conv", ["x", "w"], ["a"], shape), ("Relu", ["a"], ["y"], {})]
    weight = zeros(makes, channels // groups, kernel, kernel)
    model = graph(nodes, {"x": (1, channels, SIDE, SIDE)}, {"w": weight}, outputs=["y"])
    return count_workload(model, march, ARRAY)


def chain(*ops: str, march: March = X5) -> Workload:
    """Return a convolution and then one unary operator after another."""
    nodes: list[Any] = [("Conv", ["x", "w"], ["t0"], {"kernel_shape": [1, 1]})]
    nodes += [(op, [f"t{i}"], [f"t{i + 1}"], {}) for i, op in enumerate(ops)]
    nodes += [("Conv", [f"t{len(ops)}", "w"], ["y"], {"kernel_shape": [1, 1]})]
    return count_workload(graph(nodes, {"x": (1, 32, SIDE, SIDE)}, {"w": zeros(32, 32, 1, 1)}), march, ARRAY)


def test_channels_are_rounded_up_to_the_array() -> None:
    exact = conv(64, 64).total(Term.COMPUTE)
    assert exact == pytest.approx(SIDE * SIDE * 64 * 64 / 1e9)
    assert conv(33, 33).total(Term.COMPUTE) == exact
    assert conv(65, 64).total(Term.COMPUTE) == pytest.approx(1.5 * exact)


@pytest.mark.parametrize("channels", [8, 31, 32, 33, 64, 200])
def test_more_channels_are_never_less_work(channels: int) -> None:
    assert conv(channels + 1, 32).total(Term.COMPUTE) >= conv(channels, 32).total(Term.COMPUTE)
    assert conv(32, channels + 1).total(Term.COMPUTE) >= conv(32, channels).total(Term.COMPUTE)


def test_a_depthwise_convolution_uses_one_row_of_the_array() -> None:
    depthwise = conv(64, 64, kernel=3, groups=64).total(Term.COMPUTE)
    assert depthwise == pytest.approx(32 * SIDE * SIDE * 64 * 9 / 1e9)
    assert depthwise < conv(64, 64, kernel=3).total(Term.COMPUTE)


def test_weights_are_counted_once() -> None:
    assert conv(64, 128).total(Term.WEIGHTS) == pytest.approx(64 * 128 / 1e6)


def test_a_relu_costs_nothing_and_a_chain_of_one_tensor_one_look_up() -> None:
    tensor = 32 * SIDE * SIDE / 1e6
    assert chain("Relu").total(Term.ELEMENTWISE) == 0
    assert chain("Sigmoid").total(Term.ELEMENTWISE) == pytest.approx(2 * tensor)
    assert chain("Relu", "Sigmoid", "Exp", "Sqrt").total(Term.ELEMENTWISE) == pytest.approx(2 * tensor)


def test_what_the_bpu_has_not_is_counted_on_the_cpu_and_handed_over() -> None:
    here, there = chain("Erf", march=X5), chain("Neg", march=X5)
    assert here.total(Term.HANDOVER) == here.total(Term.CPU_BYTES) == 0 and here.segments == 1
    assert there.total(Term.HANDOVER) == 2 and there.segments == 2
    assert there.total(Term.CPU_BYTES) == pytest.approx(2 * 32 * SIDE * SIDE / 1e6)


def test_a_linear_layer_runs_as_a_convolution_where_the_tools_make_it_one() -> None:
    nodes: list[Any] = [("MatMul", ["x", "w"], ["a"], {}), ("Relu", ["a"], ["y"], {})]
    model = graph(nodes, {"x": (1, 196, 64)}, {"w": zeros(64, 64)})
    for march in (X5, S100):
        (product, *_) = count_workload(model, march, ARRAY).nodes
        assert product.on_bpu and product.product == "Conv" and product.amounts[Term.WEIGHTS] == 64 * 64 / 1e6


def test_a_softmax_counts_as_asked_for_on_x5_and_stays_on_the_cpu_of_x3() -> None:
    nodes: list[Any] = [("MatMul", ["x", "z"], ["a"], {}), ("Softmax", ["a"], ["b"], {"axis": 3})]
    nodes.append(("MatMul", ["b", "x"], ["y"], {}))
    model = graph(nodes, {"x": (1, 3, 64, 32), "z": (1, 3, 32, 64)})
    on = {n.op: n.on_bpu for n in count_workload(model, X5, ARRAY).nodes}
    assert on == {"MatMul": True, "Softmax": True}
    assert not next(n for n in count_workload(model, X3, ARRAY).nodes if n.op == "Softmax").on_bpu


def test_the_output_is_counted_in_numbers() -> None:
    assert conv(32, 64).total(Term.OUTPUT) == pytest.approx(64 * SIDE * SIDE / 1e6)


def test_what_feeds_a_product_is_known_through_views_and_moves() -> None:
    nodes: list[Any] = [
        ("Sigmoid", ["x"], ["s"], {}),
        ("Transpose", ["s"], ["t"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["s", "t"], ["m"], {}),
        ("Sigmoid", ["m"], ["n"], {}),
        ("Add", ["n", "m"], ["y"], {}),
    ]
    found = {n.name: n.feeds_product for n in count_workload(graph(nodes, {"x": (1, 2, 32, 32)}), X5, ARRAY).nodes}
    assert found == {"s": True, "t": True, "m": False, "n": False, "y": False}
