"""linear_blocks: a chain of blocks y = F(x) becomes one 1x1 convolution y ≈ W x + b, fitted in closed form.

After TOAST ("Transformer Optimization using Adaptive and Simple Transformations", arXiv 2410.04941), which fits the
map between two points of the residual stream by least squares. Here the change y - x is fitted, so that what the
calibration images say nothing about stays x:

    D = Σ (y - x - m_d)(x - m_x)ᵀ · (Σ (x - m_x)(x - m_x)ᵀ + λI)⁻¹,   W = I + D,   b = m_y - W m_x

over all tokens of all calibration images, in float64, λ = ``RIDGE`` times the mean of the matrix's diagonal. Only
sums are kept, so memory does not grow with the images. Where y has zero mean over its channels (the rewrite's norms
may rely on it), so have W's columns and b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.approximate.blocks import Block, choose, cone_of, find_blocks, read_elsewhere
from bpudeploy.approximate.read import fresh, origins, store, tidy
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph, Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGE = 1e-6
CENTRED = 1e-4
"""A stream counts as centred when the mean of its channels is below this share of its root mean square."""

Activations = Callable[[Sequence[str]], Iterator[Mapping[str, "NDArray[np.float32]"]]]
"""What gives the named tensors of the graph as it came, image after image of the calibration set."""


@dataclass(frozen=True)
class Fit:
    """y ≈ ``weight`` x + ``bias``. ``r2``: 1 - Σ|y - ŷ|² / Σ|y - mean|² on the very tokens of the fit."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    r2: float
    tokens: int


class Sums:
    """What a fit needs of all tokens: counts, sums and products, float64; (C + C) x (C + C) numbers."""

    def __init__(self, channels: int) -> None:
        self.channels, self.count = channels, 0
        self._sum = np.zeros(2 * channels)
        self._products = np.zeros((2 * channels, 2 * channels))
        self._off_centre = 0.0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Take in tokens, (B, C, H, W) each."""
        both = np.concatenate([x, y], axis=1).astype(np.float64)
        rows = both.transpose(1, 0, 2, 3).reshape(2 * self.channels, -1)
        self.count += rows.shape[1]
        self._sum += rows.sum(axis=1)
        self._products += rows @ rows.T
        self._off_centre = max(self._off_centre, float(np.abs(rows[self.channels :].mean(axis=0)).max()))

    def fit(self) -> Fit:
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
        return Fit(weight, bias, float(1 - left / np.trace(yy)), self.count)


def linear_blocks(
    graph: Graph, ranges: Sequence[tuple[int, int]], activations: Activations, absent: Collection[int] = ()
) -> str:
    """Replace each [first, last] by its fit; return what was done in words, with each fit's R².

    Raises:
        StageError: a block does not exist, or a range is not one chain from one stream to the next.
    """
    blocks = find_blocks(graph, absent)
    chains = [_chain(graph, choose(blocks, range(first, last + 1), "linear_blocks")) for first, last in ranges]
    wanted = list(dict.fromkeys(name for chain in chains for name in (chain.source, chain.made)))
    sums = [Sums(graph.shape(chain.made)[1]) for chain in chains]
    for tensors in activations(wanted):
        for chain, total in zip(chains, sums, strict=True):
            x = tensors[chain.source]
            total.add(x if chain.part is None else x[:, :, :, chain.part], tensors[chain.made])
    said = []
    for (first, last), chain, total in zip(ranges, chains, sums, strict=True):
        fit = total.fit()
        _replace(graph, chain, fit)
        what = f"blocks {first} to {last}" if first < last else f"block {first}"
        said.append(f"{what} by a linear map, R² {fit.r2:.4f} on its own {fit.tokens} tokens")
    tidy(graph)
    return "; ".join(said)


@dataclass(frozen=True)
class _Chain:
    """``source`` is the stream before; ``part`` of its tokens are what ``made`` has; ``slice_like`` cuts so."""

    source: str
    made: str
    part: slice | None
    slice_like: Node | None


def _chain(graph: Graph, blocks: Sequence[Block]) -> _Chain:
    first, last = blocks[0], blocks[-1]
    name = f"linear_blocks [{first.index}, {last.index}]"
    source, cut = first.given, None
    if graph.shape(source) != graph.shape(last.made):
        cut = graph.nodes.get(last.given)
        wanted = (*graph.shape(source)[:3], graph.shape(last.made)[3])
        if cut is None or _part(graph, cut) is None or not cut.shape == graph.shape(last.made) == wanted:
            raise StageError(
                f"{name}: the stream goes in as {list(graph.shape(source))} and comes out as "
                f"{list(graph.shape(last.made))}",
                hint="end the range before the stage where the stream changes its shape",
            )
    inside = cone_of(graph, last.made, origins(graph, source))
    inner = {r.add for b in blocks for r in (b.mixer, b.mlp)} - {last.made}
    if inside is None or any(read_elsewhere(graph, tensor, inside) for tensor in inner):
        raise StageError(f"{name}: something outside reads inside", hint="leave that block out of the range")
    return _Chain(source, last.made, _part(graph, cut), cut)


def _part(graph: Graph, node: Node | None) -> slice | None:
    """Return the tokens that a Slice of axis 3 keeps."""
    if node is None or node.op != "Slice":
        return None
    start, stop, axis = (int(graph.constants[name][0]) for name in node.inputs[1:4])
    return slice(start, stop) if axis == 3 else None


def _replace(graph: Graph, chain: _Chain, fit: Fit) -> None:
    source = chain.source
    if chain.slice_like is not None:
        cut = chain.slice_like
        source = graph.add(Node("Slice", fresh(graph, f"{cut.name}.linear"), [source, *cut.inputs[1:]], cut.shape))
    weight = store(graph, fit.weight.astype(np.float32)[:, :, None, None], f"{chain.made}.linear.weight")
    bias = store(graph, fit.bias.astype(np.float32), f"{chain.made}.linear.bias")
    attributes = {"dilations": [1, 1], "group": 1, "kernel_shape": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1]}
    graph.add(Node("Conv", chain.made, [source, weight, bias], graph.shape(chain.made), attributes))
