"""linear_blocks: the fit equals NumPy's least squares, and the graph computes the fit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from bpudeploy.approximate.blocks import find_blocks
from bpudeploy.approximate.linear import RIDGE, RegressionSums, linear_blocks
from bpudeploy.errors import StageError
from tests.approximate.conftest import MakeExact, close, cost, finish, logits, parameters, run


def tokens(arrays: list[Any]) -> Any:
    """Return (tokens, channels), float64."""
    return np.concatenate([a[0, :, 0, :].T for a in arrays]).astype(np.float64)


@pytest.mark.parametrize("centred", [False, True])
def test_the_fit_equals_least_squares_in_numpy(centred: bool) -> None:
    rng = np.random.default_rng(0)
    x, mix = rng.standard_normal((40, 1, 6, 1, 7)).astype(np.float32), rng.standard_normal((6, 6))
    y = np.einsum("oc,bncht->bnoht", mix, x) + 0.3 * rng.standard_normal(x.shape) + 2
    if centred:
        y -= y.mean(axis=2, keepdims=True)
    sums = RegressionSums(6)
    for a, b in zip(x, y.astype(np.float32), strict=True):
        sums.add(a, b)
    fit = sums.fit()
    xs, ys = tokens(list(x)), tokens(list(y.astype(np.float32)))
    deviations = xs - xs.mean(axis=0)
    ridge = RIDGE * np.trace(deviations.T @ deviations) / 6
    padded = np.concatenate([deviations, np.sqrt(ridge) * np.eye(6)])
    change = np.concatenate([(ys - xs) - (ys - xs).mean(axis=0), np.zeros((6, 6))])
    weight = np.eye(6) + np.linalg.lstsq(padded, change, rcond=None)[0].T
    bias = ys.mean(axis=0) - weight @ xs.mean(axis=0)
    np.testing.assert_allclose(fit.weight, weight, atol=1e-5 if centred else 1e-10)
    np.testing.assert_allclose(fit.bias, bias, atol=1e-5 if centred else 1e-9)
    left = ys - xs @ fit.weight.T - fit.bias
    assert fit.r2 == pytest.approx(1 - (left**2).sum() / ((ys - ys.mean(axis=0)) ** 2).sum(), abs=1e-9)
    assert fit.tokens == 280
    if centred:
        assert np.abs(fit.weight.sum(axis=0)).max() < 1e-12 and abs(fit.bias.sum()) < 1e-12


@pytest.mark.parametrize("ranges", [[(1, 2)], [(0, 0), (2, 2)], [(2, 3)], [(3, 3)]])
def test_the_network_with_its_blocks_replaced_by_the_fit(exact: MakeExact, ranges: list[tuple[int, int]]) -> None:
    import torch

    e, seen = exact(), exact().images(6, seed=5)
    graph = e.graph()
    message = linear_blocks(graph, ranges, e.activations(seen))
    model = finish(graph)

    class Map(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, weight: Any, bias: Any) -> None:
            super().__init__()
            self.weight, self.bias = torch.from_numpy(weight), torch.from_numpy(bias)

        def forward(self, x: Any) -> Any:
            return (x.double() @ self.weight.T + self.bias).float()

    caught: dict[int, list[Any]] = {i: [] for i in range(5)}

    def change(network: Any) -> None:
        """Fit in torch on the same images: the inputs of each block and the output of the last."""
        hooks = [
            b.register_forward_pre_hook(lambda _, args, i=i: caught[i].append(args[0]))
            for i, b in enumerate(network.blocks)
        ]
        hooks.append(network.blocks[-1].register_forward_hook(lambda *args: caught[4].append(args[2])))
        with torch.inference_mode():
            for image in seen:
                network(torch.from_numpy(image[None]))
        for hook in hooks:
            hook.remove()
        for first, last in reversed(ranges):
            only = slice(0, 1) if last == 3 else slice(None)  # the rewrite computes one token of the last block
            x, y = (np.concatenate([t[0, only].double().numpy() for t in caught[i]]) for i in (first, last + 1))
            x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
            d = x - x.mean(axis=0)
            ridge = np.sqrt(RIDGE * np.trace(d.T @ d) / d.shape[1])
            change = np.concatenate([y - x - (y - x).mean(axis=0), np.zeros((d.shape[1],) * 2)])
            weight = np.eye(d.shape[1]) + np.linalg.lstsq(np.concatenate([d, ridge * np.eye(d.shape[1])]), change)[0].T
            centre = np.eye(len(weight)) - 1 / len(weight)
            fitted = Map(centre @ weight @ centre, centre @ (y.mean(axis=0) - weight @ x.mean(axis=0)))
            network.blocks = torch.nn.Sequential(*network.blocks[:first], fitted, *network.blocks[last + 1 :])

    ours, theirs = logits(model, e.images()), e.expected(change)
    assert close(ours, theirs, 2e-3), "two solvers of one regression, float32 activations of two frameworks"
    assert parameters(model) < parameters(e.model) and cost(model) < cost(e.model)
    assert [float(r) for r in re.findall(r"R² ([\d.]+)", message)] == [pytest.approx(1, abs=1.0)] * len(ranges)


def test_the_stream_stays_centred(exact: MakeExact) -> None:
    e = exact()
    graph = e.graph()
    made = find_blocks(graph)[2].output
    linear_blocks(graph, [(1, 2)], e.activations(e.images(6, seed=5)))
    (stream,) = next(iter(run(finish(graph), e.images(1), [made])))
    assert np.abs(stream.mean(axis=1)).max() < 1e-6 * np.abs(stream).max()


def test_the_fit_is_closer_than_dropping_the_block(exact: MakeExact) -> None:
    from bpudeploy.approximate.drop import drop_blocks

    e = exact()
    fitted, dropped = e.graph(), e.graph()
    linear_blocks(fitted, [(1, 1)], e.activations(e.images(20, seed=5)))
    drop_blocks(dropped, [1])
    errors = [float(np.abs(logits(finish(g), e.images()) - e.expected()).max()) for g in (fitted, dropped)]
    assert errors[0] < errors[1]


def test_a_range_over_a_change_of_shape_is_an_error(exact: MakeExact) -> None:
    e = exact("swin_tiny_patch4_window7_224", img_size=224, depths=(1, 2), num_heads=(3, 6))
    with pytest.raises(StageError, match=r"linear_blocks \[0, 1\]: the stream is .* before and .* after it"):
        linear_blocks(e.graph(), [(0, 1)], e.activations(e.images(1)))


def test_a_missing_block_is_an_error(exact: MakeExact) -> None:
    e = exact()
    with pytest.raises(StageError, match="linear_blocks names block 4"):
        linear_blocks(e.graph(), [(3, 4)], e.activations(e.images(1)))
