"""linear_blocks: replace a chain of blocks y = F(x) by one 1x1 convolution y ≈ W x + b, fitted in closed form.

After TOAST ("Transformer Optimization using Adaptive and Simple Transformations", arXiv 2410.04941), which fits the
map between two points of the residual stream by least squares. Here the change y - x is fitted, so that directions
absent from the calibration images stay x:

    D = Σ (y - x - m_d)(x - m_x)ᵀ · (Σ (x - m_x)(x - m_x)ᵀ + λI)⁻¹,   W = I + D,   b = m_y - W m_x

over all tokens of all calibration images, in float64; λ is ``RIDGE`` times the mean of the matrix's diagonal. Only
sums are stored, so memory does not grow with the images. If y has zero mean over channels (the rewritten norms may
rely on it), so have the columns of W, and b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.approximate.blocks import Block, find_blocks, nodes_between, reader_outside, select_blocks
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import store, tidy, view_sources
from bpudeploy.restructure.graph import POINTWISE_CONV, Graph, Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGE = 1e-6
CENTRED = 1e-4
"""A stream is centred if its mean over channels is below this fraction of its root mean square."""

Activations = Callable[[Sequence[str]], Iterator[Mapping[str, "NDArray[np.float32]"]]]
"""A function that yields the named tensors of the original graph for each calibration image."""


@dataclass(frozen=True)
class LinearFit:
    """y ≈ ``weight`` x + ``bias``; ``r2`` is 1 - Σ|y - ŷ|² / Σ|y - mean|² on the training tokens."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    r2: float
    tokens: int


class RegressionSums:
    """The count, sum and products of all tokens of x and y, float64, from which the regression is computed."""

    def __init__(self, channels: int) -> None:
        self.channels, self.count = channels, 0
        self._sum = np.zeros(2 * channels)
        self._products = np.zeros((2 * channels, 2 * channels))
        self._off_centre = 0.0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Add the tokens of x and y, each (B, C, H, W)."""
        both = np.concatenate([x, y], axis=1).astype(np.float64)
        rows = both.transpose(1, 0, 2, 3).reshape(2 * self.channels, -1)
        self.count += rows.shape[1]
        self._sum += rows.sum(axis=1)
        self._products += rows @ rows.T
        self._off_centre = max(self._off_centre, float(np.abs(rows[self.channels :].mean(axis=0)).max()))

    def fit(self) -> LinearFit:
        """Return the ridge regression of y on x."""
        c, mean = self.channels, self._sum / self.count
        covariance = self._products - self.count * np.outer(mean, mean)
        xx, yx, yy = covariance[:c, :c], covariance[c:, :c], covariance[c:, c:]
        ridge = RIDGE * np.trace(xx) / c or 1.0
        change = np.linalg.solve(xx + ridge * np.eye(c), (yx - xx).T).T
        weight = np.eye(c) + change
        root_mean_square = float(np.sqrt(np.trace(self._products[c:, c:]) / (self.count * c)))
        bias = mean[c:] - weight @ mean[:c]
        if self._off_centre <= CENTRED * root_mean_square:
            weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
        left = np.trace(yy) - 2 * np.sum(weight * yx) + np.sum((weight @ xx) * weight)
        return LinearFit(weight, bias, float(1 - left / np.trace(yy)), self.count)


def linear_blocks(
    graph: Graph, ranges: Sequence[tuple[int, int]], activations: Activations, absent: Collection[int] = ()
) -> str:
    """Replace each [first, last] by its fit; return a summary with each fit's R².

    Raises:
        StageError: a block does not exist, or the stream changes its shape within a range or is read from outside.
    """
    blocks = find_blocks(graph, absent)
    chains = [_chain(graph, select_blocks(blocks, range(first, last + 1), "linear_blocks")) for first, last in ranges]
    wanted = list(dict.fromkeys(name for chain in chains for name in (chain.source, chain.target)))
    sums = [RegressionSums(graph.shape(chain.target)[1]) for chain in chains]
    for tensors in activations(wanted):
        for chain, total in zip(chains, sums, strict=True):
            x = tensors[chain.source]
            total.add(x if chain.part is None else x[:, :, :, chain.part], tensors[chain.target])
    summaries = []
    for (first, last), chain, total in zip(ranges, chains, sums, strict=True):
        fit = total.fit()
        _replace(graph, chain, fit)
        replaced = f"blocks {first} to {last}" if first < last else f"block {first}"
        summaries.append(f"{replaced} replaced by a linear map, R² {fit.r2:.4f} on its {fit.tokens} training tokens")
    tidy(graph)
    return "; ".join(summaries)


@dataclass(frozen=True)
class _Chain:
    """The stream before and after; ``target`` has the tokens ``part`` of ``source``, sliced like ``slice_like``."""

    source: str
    target: str
    part: slice | None
    slice_like: Node | None


def _chain(graph: Graph, blocks: Sequence[Block]) -> _Chain:
    first, last = blocks[0], blocks[-1]
    name = f"linear_blocks [{first.index}, {last.index}]"
    source, cut = first.input, None
    if graph.shape(source) != graph.shape(last.output):
        cut = graph.nodes.get(last.input)
        wanted = (*graph.shape(source)[:3], graph.shape(last.output)[3])
        if cut is None or _part(graph, cut) is None or not cut.shape == graph.shape(last.output) == wanted:
            raise StageError(
                f"{name}: the stream is {list(graph.shape(source))} before and "
                f"{list(graph.shape(last.output))} after it",
                hint="end the range before the block that changes the stream's shape",
            )
    inside = nodes_between(graph, last.output, view_sources(graph, source))
    inner = {r.add for b in blocks for r in (b.mixer, b.mlp)} - {last.output}
    if inside is None or any(reader_outside(graph, tensor, inside) for tensor in inner):
        raise StageError(
            f"{name}: a node outside the range reads a tensor inside", hint="exclude that block from the range"
        )
    return _Chain(source, last.output, _part(graph, cut), cut)


def _part(graph: Graph, node: Node | None) -> slice | None:
    """Return the tokens selected by a Slice of axis 3, or None."""
    if node is None or node.op != "Slice":
        return None
    start, stop, axis = (int(graph.constants[name][0]) for name in node.inputs[1:4])
    return slice(start, stop) if axis == 3 else None


def _replace(graph: Graph, chain: _Chain, fit: LinearFit) -> None:
    source = chain.source
    if chain.slice_like is not None:
        cut = chain.slice_like
        source = graph.add(Node("Slice", graph.unique_name(f"{cut.name}.linear"), [source, *cut.inputs[1:]], cut.shape))
    weight = store(graph, fit.weight.astype(np.float32)[:, :, None, None], f"{chain.target}.linear.weight")
    bias = store(graph, fit.bias.astype(np.float32), f"{chain.target}.linear.bias")
    graph.add(Node("Conv", chain.target, [source, weight, bias], graph.shape(chain.target), dict(POINTWISE_CONV)))
