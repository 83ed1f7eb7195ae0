"""Which nodes run elsewhere because of what is before and after them, as the vendor's checker was seen to do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.limits.base import volume
from bpudeploy.conformance.report import Device
from bpudeploy.conformance.signature import ONLY_ONES, signature
from bpudeploy.spec.operators import VIEWS

_VIEWS = VIEWS | {"Split"}
"""Where they run follows from their neighbours."""
_ASKED_FOR = frozenset(["Mul", "Add", "AveragePool", "Concat", "Relu"])
"""Operators that bernoulli2 computes in integers only where somebody reads integers."""
_PRODUCTS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])


def by_neighbours(nodes: Sequence[NodeView], devices: list[Device], *, strict: bool) -> dict[int, tuple[Device, str]]:
    """Return the nodes whose place is another than ``devices`` says, with the place and the reason.

    On bayes and bayes-e a view stays on the CPU where all that read it are there. On bernoulli2 (``strict``) a view
    stays there where anything before or after it is, a Slice where all that read it are; a Reshape that an operator of
    two maps reads cannot be folded; and what is not 1xCxHxW stays where it was made. Sums and products of two maps are
    on its CPU where all that read them are; a Mul by a constant or of a HardSwish is a look-up, and stays on the BPU.
    """
    around, moved = _Around(nodes), dict[int, tuple[Device, str]]()
    devices = list(devices)
    if strict:
        for i in around.of_gelus():
            devices[i], moved[i] = Device.BPU, (Device.BPU, "the checker makes one look-up of the GELU")
    waiting = set(range(len(nodes)))
    while waiting:
        i = waiting.pop()
        if devices[i] is Device.BPU and _follows(i, nodes, devices, around, strict):
            devices[i], moved[i] = Device.CPU, (Device.CPU, "its neighbours are on the CPU")
            waiting |= {*around.before(i), *around.after(i)}
    return moved


def _follows(i: int, nodes: Sequence[NodeView], devices: Sequence[Device], around: _Around, strict: bool) -> bool:
    node, readers = nodes[i], around.after(i)
    before = [devices[k] is not Device.BPU for k in around.before(i)]
    after = [devices[k] is not Device.BPU for k in readers]
    unread = bool(after) and all(after)
    view = node.op in _VIEWS
    if ONLY_ONES in (signature(node) or ""):
        return strict and any(before)
    if not strict:
        return view and unread
    shape = node.outputs[0].shape or ()
    odd = len(shape) != 4 or shape[0] != 1
    looked_up = node.op == "Mul" and (node.constants or "HardSigmoid" in node.makers)
    if node.op in _ASKED_FOR and unread and not looked_up:
        return node.op != "AveragePool" or any(before)
    if node.makers == ("Sqrt",) and volume(shape) == 1 and node.op not in _PRODUCTS:
        return True
    if node.op == "Reshape" and any(len(nodes[k].features) > 1 for k in readers):
        return True
    if node.op == "Slice" and not odd:
        return unread
    if not before:
        return False
    return (view and any((*before, *after))) or (odd and node.op not in _PRODUCTS and all(before))


class _Around:
    """Which nodes make what a node reads, and which read what it makes."""

    def __init__(self, nodes: Sequence[NodeView]) -> None:
        self._nodes = nodes
        self._makers = {t.name: i for i, node in enumerate(nodes) for t in node.outputs}
        self._readers: dict[str, list[int]] = {}
        for i, node in enumerate(nodes):
            for t in node.features:
                self._readers.setdefault(t.name, []).append(i)

    def before(self, i: int) -> list[int]:
        return [self._makers[t.name] for t in self._nodes[i].features if t.name in self._makers]

    def after(self, i: int) -> list[int]:
        return [r for t in self._nodes[i].outputs for r in self._readers.get(t.name, ())]

    def of_gelus(self) -> Iterator[int]:
        """Yield the Add and both Muls of each x * (1 + erf(x / sqrt 2)) * 0.5: exactly that form is fused."""
        for i, node in enumerate(self._nodes):
            if node.op != "Add" or node.makers != ("Erf",):
                continue
            product = self.after(i)
            last = self.after(product[0]) if len(product) == 1 and self._nodes[product[0]].op == "Mul" else []
            if len(last) == 1 and self._nodes[last[0]].op in ("Mul", "Div"):
                halves = self._nodes[last[0]].constants
                if halves and halves[0].shape is not None and volume(halves[0].shape) == 1:
                    yield from (i, *product, *last)
