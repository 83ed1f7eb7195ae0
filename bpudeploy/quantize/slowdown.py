"""Predicted cost of int16, counted from shapes and the rules of the march; not measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.precision import Int16Cost, Precision

Slowdown = Callable[[Collection[str]], float]
"""Maps promoted taps to the predicted latency of the network, relative to that without them. A cost model of the
compiler can replace ``slowdown``."""


def slowdown(record: QuantizeRecord, macs: Mapping[str, int], cost: Int16Cost, promoted: Collection[str]) -> float:
    """Return the predicted latency with the taps ``promoted`` in int16, relative to that of the network as it is.

    Latency is counted in multiply-accumulates; those of a node that reads an int16 tap count ``cost.products`` times.
    A node that already reads int16 costs nothing more.

    Args:
        macs: multiply-accumulates by node of the float graph.
    """

    def time(taps: Collection[str]) -> float:
        wide = {
            product
            for name, tap in record.taps.items()
            if name in taps or tap.precision is Precision.INT16
            for product in tap.products
        }
        return sum(macs.values()) + (cost.products - 1.0) * sum(macs.get(name, 0) for name in wide)

    before = time(())
    return time(promoted) / before if before else 1.0
