"""Deviation of each Conv and MatMul of the quantized network from the float network, on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from bpudeploy.host import open_with_outputs
from bpudeploy.quantize.arrays import F32, F64
from bpudeploy.quantize.attentions import Attention, find_attentions
from bpudeploy.quantize.findings import LayerDeviation, LayerReport
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.taps import PRODUCTS, GraphIndex
from bpudeploy.spec.precision import Precision

BEST_DB = 150.0
"""The SQNR of a layer without any deviation: the step of float32 is 2^-24 of a value, 144 dB."""


def _pairs(x: F64, y: F64) -> tuple[tuple[F64, F64], ...]:
    """Return what is multiplied for signal, quantized signal, noise and product."""
    return (x, x), (y, y), (x - y, x - y), (x, y)


@dataclass
class Sums:
    """Sums over all images of the float output x and the quantized y; differences of means over ``means`` axes are
    ignored."""

    means: tuple[int, ...] = ()
    moments: F64 = field(default_factory=lambda: np.zeros(4))
    totals: Any = 0.0
    count: int = 0

    def add(self, x: F32, y: F32 | F64) -> None:
        a, b = x.astype(np.float64), y.astype(np.float64)
        self.moments += [np.vdot(p, q) for p, q in _pairs(a, b)]
        if self.means:
            self.totals = self.totals + np.stack([a.sum(axis=self.means), b.sum(axis=self.means)])
            self.count += math.prod(x.shape[axis] for axis in self.means)

    def measures(self) -> tuple[float, float]:
        """Return the SQNR in dB, and the cosine."""
        moments = self.moments
        if self.count:
            moments = moments - [(p * q).sum() / self.count for p, q in _pairs(*self.totals)]
        signal, quantized, noise, product = moments.tolist()
        norms = math.sqrt(max(signal, 0.0) * max(quantized, 0.0))
        ratio = signal / noise if noise > 0.0 else math.inf
        return (
            10.0 * math.log10(min(max(ratio, 10.0 ** (-BEST_DB / 10.0)), 10.0 ** (BEST_DB / 10.0))),
            min(1.0, product / norms) if norms else float(noise <= 0.0),
        )

    def deviation(self, node: str, op: str, index: int, inputs: tuple[Precision, ...]) -> LayerDeviation:
        sqnr_db, cosine = self.measures()
        return LayerDeviation(node=node, op=op, index=index, inputs=inputs, sqnr_db=sqnr_db, cosine=cosine)


def layer_deviations(
    graph: onnx.ModelProto, quantized: onnx.ModelProto, images: Iterable[F32], progress: Callable[[int], None]
) -> LayerReport:
    """Compare the output of every Conv and MatMul of ``quantized`` with that of the same node of ``graph``.

    Undoes what quantization moved between layers: the output of a product is divided by the factors of its channels;
    the values of an attention, and their product with the softmax, are compared without their channel means, which may
    be in a later bias; a product in two ranges is compared as the sum. Nodes that the float graph lacks are left out.

    Args:
        graph: the float graph that was quantized.
        images: float32 (N, 3, H, W), normalised; one run each. Memory use does not depend on their number.
    """
    record, index, written = QuantizeRecord.read(quantized), GraphIndex(graph), GraphIndex(quantized)
    attentions = find_attentions(graph, index)
    # only the quotient is free of the values' means
    undivided = {product.node for a in attentions for product in a.products if product.divided}
    found = _compared_nodes(record.products, index, written)
    compared = {name: product for name, product in found.items() if name not in undivided}
    means = _mean_axes(attentions)
    sums = {name: Sums(means.get(name, ())) for name in compared}
    fed = index.inputs[0]
    sides = []
    for model, nodes in ((graph, index.nodes), (quantized, written.nodes)):
        outputs = [nodes[name].output[0] for name in compared]
        sides.append((open_with_outputs(model, outputs, only=True), outputs))
    done = 0
    for done, image in enumerate(images, 1):
        x, y = (session.run(outputs, {fed: image}) if outputs else [] for session, outputs in sides)
        for name, a, b in zip(compared, x, y, strict=True):
            factors = record.factors.get(name)
            sums[name].add(a, b if factors is None else b / _spread(factors, b, means.get(name, (0, 2, 3))))
        progress(done)
    layers = [
        sums[name].deviation(name, index.nodes[name].op_type, i, _input_precisions(product, written, record))
        for i, (name, product) in enumerate(compared.items())
    ]
    return LayerReport(images=done, layers=tuple(sorted(layers, key=lambda layer: (layer.sqnr_db, layer.index))))


def _spread(factors: Sequence[float], output: F32, others: Sequence[int]) -> F32:
    """Return the factors of the channels, in a shape that applies to ``output``; ``others``: its other axes."""
    shape = [1 if axis in others else size for axis, size in enumerate(output.shape)]
    return np.array(factors, np.float32).reshape(shape)


def _compared_nodes(products: Iterable[str], index: GraphIndex, written: GraphIndex) -> dict[str, str]:
    """Return the compared nodes of the float graph, each with its product in the quantized graph."""
    found: dict[str, str] = {}
    for product in products:
        name = product if product in index.nodes else product.rpartition(".")[0]
        node = index.nodes.get(name)
        if node is not None and node.op_type in PRODUCTS and name in written.nodes:
            found.setdefault(name, product)
    return found


def _mean_axes(found: Iterable[Attention]) -> dict[str, tuple[int, ...]]:
    """Return, for the values of each attention and their products with the softmax, the axes of the ignored mean."""
    axes: dict[str, tuple[int, ...]] = {}
    for attention in found:
        axes[attention.values] = (0, 2, 3)
        axes |= {product.node: product.token_axes for product in attention.products}
    return axes


def _input_precisions(product: str, written: GraphIndex, record: QuantizeRecord) -> tuple[Precision, ...]:
    """Return the precisions of the non-constant inputs of a product."""
    read = (written.source(name) for name in written.nodes[product].input)
    taps = (record.taps.get(name.removesuffix(".rounded")) for name in read)
    return tuple(tap.precision for tap in taps if tap is not None) or (Precision.FLOAT32,)
