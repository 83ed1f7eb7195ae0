"""What int16 is predicted to cost: counted from shapes and the march's rule, never measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.precision import Int16Cost, Precision

Slowdown = Callable[[Collection[str]], float]
"""From the taps that are promoted to the predicted time of the whole network over its time without. A compiler that
knows its own cost takes the place of ``slowdown`` here."""


def slowdown(record: QuantizeRecord, macs: Mapping[str, int], cost: Int16Cost, promoted: Collection[str]) -> float:
    """Return the predicted time with the taps ``promoted`` in int16 over that of the network as it is.

    Time is counted in multiply-accumulates: those of a product that reads an int16 tap count ``cost.products`` times.
    Nothing else is counted, and a product that reads int16 already costs nothing more.

    Args:
        macs: node of the float graph to its multiply-accumulates.
    """
    before = _time(macs, cost, _wide(record, ()))
    return _time(macs, cost, _wide(record, promoted)) / before if before else 1.0


def _wide(record: QuantizeRecord, promoted: Collection[str]) -> set[str]:
    """Return the products that read int16."""
    return {
        product
        for name, tap in record.taps.items()
        if name in promoted or tap.precision is Precision.INT16
        for product in tap.products
    }


def _time(macs: Mapping[str, int], cost: Int16Cost, wide: Collection[str]) -> float:
    return sum(macs.values()) + (cost.products - 1.0) * sum(macs.get(name, 0) for name in wide)
