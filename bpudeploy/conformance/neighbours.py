"""Nodes that the vendor's checker places by their producers and consumers, not by their operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from bpudeploy.conformance.cost import PRODUCTS
from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.report import Device
from bpudeploy.conformance.signature import UNIT_AXES_ONLY, signature
from bpudeploy.spec.operators import VIEWS

_VIEWS = VIEWS | {"Split"}
"""Operators that change no value: their neighbours decide where they run."""
_INTEGER_ON_DEMAND = frozenset(["Mul", "Add", "AveragePool", "Concat", "Relu"])
"""Operators that bernoulli2 computes in integers only if a consumer reads integers."""


def moved_by_neighbours(
    nodes: Sequence[NodeView], devices: list[Device], *, strict: bool
) -> dict[int, tuple[Device, str]]:
    """Return the nodes that run elsewhere than ``devices`` says, with their device and the reason.

    On bayes and bayes-e, a view stays on the CPU if all its consumers are there. On bernoulli2 (``strict``), a view
    stays there if any neighbour is, and a Slice if all its consumers are; a Reshape read by an operator of two feature
    maps cannot be folded; a tensor that is not 1xCxHxW stays where it was produced. Sums and products of two feature
    maps run on the CPU if all their consumers do; a Mul by a constant or of a HardSwish is a look-up table on the BPU.
    """
    devices, moved = list(devices), dict[int, tuple[Device, str]]()
    if strict:
        for i in _erf_gelus(nodes):
            devices[i], moved[i] = Device.BPU, (Device.BPU, "the checker turns the GELU into one look-up table")
    waiting = set(range(len(nodes)))
    while waiting:
        i = waiting.pop()
        if devices[i] is Device.BPU and _follows_to_cpu(nodes[i], nodes, devices, strict):
            devices[i], moved[i] = Device.CPU, (Device.CPU, "its neighbours are on the CPU")
            waiting |= {*nodes[i].sources, *nodes[i].readers}
    return moved


def _follows_to_cpu(node: NodeView, nodes: Sequence[NodeView], devices: Sequence[Device], strict: bool) -> bool:
    before = [devices[k] is not Device.BPU for k in node.sources]
    after = [devices[k] is not Device.BPU for k in node.readers]
    only_cpu_consumers = bool(after) and all(after)
    view = node.op in _VIEWS
    if UNIT_AXES_ONLY in (signature(node) or ""):
        return strict and any(before)
    if not strict:
        return view and only_cpu_consumers
    shape = node.outputs[0].shape or ()
    odd = len(shape) != 4 or shape[0] != 1
    looked_up = node.op == "Mul" and (node.constants or "HardSigmoid" in node.producers)
    if node.op in _INTEGER_ON_DEMAND and only_cpu_consumers and not looked_up:
        return node.op != "AveragePool" or any(before)
    if node.producers == ("Sqrt",) and prod(shape) == 1 and node.op not in PRODUCTS:
        return True
    if node.op == "Reshape" and any(len(nodes[k].features) > 1 for k in node.readers):
        return True
    if node.op == "Slice" and not odd:
        return only_cpu_consumers
    if not before:
        return False
    return (view and any((*before, *after))) or (odd and node.op not in PRODUCTS and all(before))


def _erf_gelus(nodes: Sequence[NodeView]) -> Iterator[int]:
    """Yield the Add and both Muls of each x * (1 + erf(x / sqrt 2)) * 0.5: exactly that form is fused."""
    for i, node in enumerate(nodes):
        if node.op != "Add" or node.producers != ("Erf",):
            continue
        product = node.readers
        last = nodes[product[0]].readers if len(product) == 1 and nodes[product[0]].op == "Mul" else ()
        if len(last) == 1 and nodes[last[0]].op in ("Mul", "Div"):
            halves = nodes[last[0]].constants
            if halves and halves[0].shape is not None and prod(halves[0].shape) == 1:
                yield from (i, *product, *last)
