"""gelu: each form has the documented formula and error; a network without GELU is an error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bpudeploy.approximate.gelu import PIECEWISE, approximate_gelu, fit_piecewise
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import tidy
from bpudeploy.restructure.record import count_nodes
from bpudeploy.spec.approximate import GeluForm
from tests.approximate.conftest import MakeExact, close, finish, logits

p = PIECEWISE
WORST = {GeluForm.TANH: 0.00048, GeluForm.QUICK: 0.0204, GeluForm.PIECEWISE: 0.0201}


def form(kind: GeluForm, x: Any) -> Any:
    """The formulas, in torch."""
    import torch

    match kind:
        case GeluForm.TANH:
            return torch.nn.functional.gelu(x, approximate="tanh")
        case GeluForm.QUICK:
            return x * torch.sigmoid(1.702 * x)
        case GeluForm.PIECEWISE:
            inner = p.inner_slope * x.clamp(-p.inner, p.inner)
            return x / 2 * (1 + inner + p.outer_slope * x.clamp(-p.outer, p.outer))


@pytest.mark.parametrize("kind", GeluForm)
def test_the_errors_of_the_forms_are_as_documented(kind: GeluForm) -> None:
    import torch

    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    worst = float((form(kind, x) - torch.nn.functional.gelu(x)).abs().max())
    assert 0.98 * WORST[kind] < worst <= WORST[kind]


def test_the_piecewise_constants_are_those_of_the_fit() -> None:
    fitted, worst = fit_piecewise()
    assert worst == pytest.approx(0.0199, abs=1e-4)
    for ours, theirs in zip(
        (p.inner, p.outer, p.outer_slope), (fitted.inner, fitted.outer, fitted.outer_slope), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert math.isclose(p.inner_slope * p.inner + p.outer_slope * p.outer, 1.0)


@pytest.mark.parametrize("kind", GeluForm)
def test_every_gelu_of_a_network_is_replaced(exact: MakeExact, kind: GeluForm) -> None:
    import torch

    class Approximate(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return form(kind, x)

    def change(model: Any) -> None:
        for block in model.blocks:
            block.mlp.act = Approximate()

    e = exact()
    graph = e.graph()
    assert approximate_gelu(graph, kind) == f"4 GELUs in the form {kind.value}"
    model = finish(graph)
    nodes = count_nodes(model)
    assert "Erf" not in nodes
    operator = {GeluForm.TANH: "Tanh", GeluForm.QUICK: "Sigmoid", GeluForm.PIECEWISE: "Clip"}[kind]
    assert nodes[operator] == (8 if kind is GeluForm.PIECEWISE else 4)
    ours = logits(model, e.images())
    assert close(ours, e.expected(change))
    assert not close(ours, e.expected()), "it is an approximation"


def test_quick_has_fewer_nodes_than_the_exact_form(exact: MakeExact) -> None:
    e = exact()
    graph = e.graph()
    approximate_gelu(graph, GeluForm.QUICK)
    assert len(finish(graph).graph.node) == len(e.model.graph.node) - 2 * 4


def test_a_network_without_gelu_is_an_error(exact: MakeExact) -> None:
    with pytest.raises(StageError, match=r"no exact GELU.*its activations: Relu"):
        approximate_gelu(exact("test_resnet", num_classes=5).graph(), GeluForm.TANH)


def test_the_factor_two_is_folded_like_the_half(exact: MakeExact) -> None:
    """If the ½ is folded into the next convolution, so is the factor 2 of quick."""
    e = exact()
    graph, expected = e.graph(), e.graph()
    for node in [*graph.nodes.values()]:
        half = next((n for n in node.inputs if n in graph.constants and graph.constants[n].size == 1), None)
        if node.op == "Mul" and half is not None and float(graph.constants[half].reshape(-1)[0]) == 0.5:
            (reader,) = [n for n in graph.nodes.values() if node.name in n.inputs]
            graph.constants[f"{reader.name}.halved"] = graph.constants[reader.inputs[1]] * np.float32(0.5)
            reader.inputs[1] = f"{reader.name}.halved"
            graph.replace_uses(node.name, next(n for n in node.inputs if n != half))
    tidy(graph)
    approximate_gelu(graph, GeluForm.QUICK)
    approximate_gelu(expected, GeluForm.QUICK)
    ours, theirs = finish(graph), finish(expected)
    assert close(logits(ours, e.images()), logits(theirs, e.images()))
    assert len(ours.graph.node) == len(theirs.graph.node)
