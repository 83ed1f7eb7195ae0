"""How far each Conv and MatMul of the quantized network is from the same of the float network, on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpudeploy.quantize.calibrate import tapped
from bpudeploy.quantize.findings import Layer, Layers
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.taps import PRODUCTS, Reading, softmax_side
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

BEST_DB = 150.0
"""What a layer is given that does not differ at all: float32's own steps are 2^-24 of a value, 144 dB."""


@dataclass
class _Sums:
    """Sums over all images of the float output x and the quantized y. ``means``: axes whose mean is no difference."""

    means: tuple[int, ...] = ()
    signal: float = 0.0
    held: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    totals: Any = 0.0
    count: int = 0

    def add(self, x: F32, y: F32) -> None:
        import numpy as np

        a, b = x.astype(np.float64), y.astype(np.float64)
        self.signal += float(np.vdot(a, a))
        self.held += float(np.vdot(b, b))
        self.noise += float(np.vdot(a - b, a - b))
        self.product += float(np.vdot(a, b))
        if self.means:
            self.totals = self.totals + np.stack([a.sum(axis=self.means), b.sum(axis=self.means)])
            self.count += math.prod(x.shape[axis] for axis in self.means)

    def layer(self, node: str, op: str, index: int, inputs: tuple[Precision, ...]) -> Layer:
        """Return what the sums say."""
        signal, held, noise, product = self.signal, self.held, self.noise, self.product
        if self.count:
            a, b = self.totals
            signal, held = signal - (a * a).sum() / self.count, held - (b * b).sum() / self.count
            noise, product = noise - ((a - b) ** 2).sum() / self.count, product - (a * b).sum() / self.count
        norms = math.sqrt(max(signal, 0.0) * max(held, 0.0))
        ratio = signal / noise if noise > 0.0 else math.inf
        return Layer(
            node=node,
            op=op,
            index=index,
            inputs=inputs,
            sqnr_db=10.0 * math.log10(min(max(ratio, 10.0 ** (-BEST_DB / 10.0)), 10.0 ** (BEST_DB / 10.0))),
            cosine=min(1.0, product / norms) if norms else float(noise <= 0.0),
        )


def deviations(
    graph: onnx.ModelProto, quantized: onnx.ModelProto, images: Iterable[F32], progress: Callable[[int], None]
) -> Layers:
    """Hold the output of every product of ``quantized`` against that of the same node of ``graph``, the worst first.

    By what migrated scales multiplied a Conv's channels, its output is divided. The values of an attention, and their
    product with the softmax, are compared without the mean of each channel: it may have moved into the bias that
    comes after. A product in two ranges is compared as their sum; one that the float graph has not is left out.

    Args:
        graph: the float graph that was quantized.
        images: float32 (N, 3, H, W), normalised: one run each. Memory does not grow with them.
    """
    record, reading, written = QuantizeRecord.read(quantized), Reading(graph), Reading(quantized)
    of = _named(record.products, reading, written)
    means = _free_means(reading)
    sums = {name: _Sums(means.get(name, ())) for name in of}
    fed = reading.inputs[0]
    sides = []
    for model, nodes in ((graph, reading.nodes), (quantized, written.nodes)):
        outputs = [nodes[name].output[0] for name in of]
        sides.append((tapped(model, outputs)[0], outputs))
    done = 0
    for done, image in enumerate(images, 1):
        x, y = (session.run(outputs, {fed: image}) if outputs else [] for session, outputs in sides)
        for name, a, b in zip(of, x, y, strict=True):
            sums[name].add(a, _divided(b, record.factors.get(name)))
        progress(done)
    layers = [
        sums[name].layer(name, reading.nodes[name].op_type, index, _inputs(product, written, record))
        for index, (name, product) in enumerate(of.items())
    ]
    return Layers(images=done, layers=tuple(sorted(layers, key=lambda layer: (layer.sqnr_db, layer.index))))


def _named(products: Iterable[str], reading: Reading, written: Reading) -> dict[str, str]:
    """Return the nodes of the float graph that are compared, each with the product that stands for it."""
    found: dict[str, str] = {}
    for product in products:
        name = product if product in reading.nodes else product.rpartition(".")[0]
        node = reading.nodes.get(name)
        if node is not None and node.op_type in PRODUCTS and name in written.nodes:
            found.setdefault(name, product)
    return found


def _free_means(reading: Reading) -> dict[str, tuple[int, ...]]:
    """Return the axes of an attention's values, and of what it makes of them, over which a mean is free."""
    found: dict[str, tuple[int, ...]] = {}
    for node in reading.nodes.values():
        side = softmax_side(reading, node)
        if side is None:
            continue
        found[node.name] = (0, 2) if side == 0 else (0, 3)
        values = reading.maker.get(reading.source(node.input[1 - side]))
        if values is not None and values.op_type == "Conv":
            found[values.name] = (0, 2, 3)
    return found


def _divided(value: F32, factors: tuple[float, ...] | None) -> F32:
    import numpy as np

    if factors is None:
        return value
    divided: F32 = value / np.array(factors, np.float32).reshape(1, -1, 1, 1)
    return divided


def _inputs(product: str, written: Reading, record: QuantizeRecord) -> tuple[Precision, ...]:
    """Return how the inputs of a product are held, constants left out."""
    read = (written.source(name) for name in written.nodes[product].input)
    taps = (record.taps.get(name.removesuffix(".rounded")) for name in read)
    return tuple(tap.precision for tap in taps if tap is not None) or (Precision.FLOAT32,)
