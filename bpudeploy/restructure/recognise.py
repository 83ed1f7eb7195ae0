"""Operators that older exports write out in parts are put together again: LayerNormalization and Gelu."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bpudeploy.restructure.imported import Network, Operation, connected

_CLOSE = 1e-4


@dataclass(frozen=True)
class _Found:
    """One operator in place of several: ``last`` gives its output, ``inside`` go."""

    made: Operation
    inside: frozenset[str]


def recognise(network: Network) -> Network:
    """Return ``network`` with written-out norms and GELUs as single operators; the values stay the same."""
    makers = {name: o for o in network.operations for name in o.outputs}
    replaced: dict[str, Operation] = {}
    gone: set[str] = set()
    for operation in network.operations:
        for rule in _RULES.get(operation.op, ()):
            found = rule(_Look(network, makers), operation)
            if found is not None and not found.inside & gone:
                replaced[found.made.outputs[0]] = found.made
                gone |= found.inside
                break
    kept = [replaced.get(o.outputs[0], o) for o in network.operations if o.outputs[0] not in gone]
    return connected(kept, network.constants, network.inputs, network.outputs, network.opset)


@dataclass(frozen=True)
class _Look:
    """Ways to look at what stands before an operation."""

    network: Network
    makers: dict[str, Operation]

    def number(self, name: str) -> float | None:
        """Return a constant of one number."""
        array = self.network.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def before(self, name: str, *ops: str) -> Operation | None:
        """Return what makes ``name``, if it is one of ``ops``."""
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op in ops else None

    def pair(self, operation: Operation) -> list[tuple[str, str]]:
        """Return both orders of an operation's two inputs."""
        a, b = operation.inputs[:2]
        return [(a, b), (b, a)]

    def with_number(self, operation: Operation | None, number: float) -> str | None:
        """Return the other input of ``operation`` if one of its two is about ``number``."""
        if operation is None:
            return None
        for a, b in self.pair(operation):
            found = self.number(b)
            if found is not None and abs(found - number) <= _CLOSE * abs(number):
                return a
        return None

    def private(self, names: set[str], last: str) -> bool:
        """Whether the tensors ``names`` are read inside the pattern only, ``last`` aside."""
        inside = names | {last}
        outputs = set(self.network.outputs)
        return all(
            name not in outputs and all(set(r.outputs) <= inside for r in self.network.readers.get(name, ()))
            for name in names
        )


def _gelu(look: _Look, last: Operation) -> _Found | None:
    """x · (1 + erf(x / √2)) · ½ in any order of its products."""
    for half, rest in _halves(look, last):
        for x, sum_name in rest:
            total = look.before(sum_name, "Add")
            bend = look.before(look.with_number(total, 1.0) or "", "Erf")
            if total is None or bend is None:
                continue
            inner = look.before(bend.inputs[0], "Div", "Mul")
            root = math.sqrt(2.0) if inner is not None and inner.op == "Div" else math.sqrt(0.5)
            if inner is None or look.with_number(inner, root) != x:
                continue
            inside = {half, total.outputs[0], bend.outputs[0], inner.outputs[0]} - {last.outputs[0]}
            if look.private(inside, last.outputs[0]):
                made = replace(last, op="Gelu", path=bend.path, inputs=(x,), attributes={})
                return _Found(made, frozenset(inside))
    return None


def _halves(look: _Look, last: Operation) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each way to read ``last`` as ½ · a · b: the tensor that goes with it, and (a, b) in both orders."""
    found = []
    inner = look.with_number(last, 0.5)
    product = look.before(inner or "", "Mul")
    if product is not None:
        found.append((product.outputs[0], look.pair(product)))
    for a, b in look.pair(last):
        halved = look.before(a, "Mul")
        x = look.with_number(halved, 0.5)
        if halved is not None and x is not None:
            found.append((halved.outputs[0], [(x, b), (b, x)]))
    return found


def _layer_norm(look: _Look, last: Operation) -> _Found | None:
    """(x - mean) / sqrt(mean((x - mean)²) + ε) over the last axes; γ and β behind it need no rule of their own."""
    centred, root = look.before(last.inputs[0], "Sub"), look.before(last.inputs[1], "Sqrt")
    total = look.before(root.inputs[0], "Add") if root is not None else None
    if centred is None or root is None or total is None:
        return None
    for variance_name, eps_name in look.pair(total):
        eps, variance = look.number(eps_name), look.before(variance_name, "ReduceMean")
        square = look.before(variance.inputs[0], "Pow", "Mul") if variance is not None else None
        if eps is None or variance is None or square is None or square.inputs[0] != centred.outputs[0]:
            continue
        if square.inputs[1] != centred.outputs[0] and look.number(square.inputs[1]) != 2.0:
            continue
        x, mean = centred.inputs[0], look.before(centred.inputs[1], "ReduceMean")
        axes = _axes(look, variance)
        if mean is None or mean.inputs[0] != x or _axes(look, mean) != axes or axes != [-1]:
            continue
        inside = {o.outputs[0] for o in (centred, root, total, variance, square, mean)}
        if look.private(inside, last.outputs[0]):
            made = replace(last, op="LayerNormalization", inputs=(x,), attributes={"axis": -1, "epsilon": eps})
            return _Found(made, frozenset(inside))
    return None


def _axes(look: _Look, operation: Operation) -> list[int] | None:
    given: Any = operation.attributes.get("axes")
    if given is None and len(operation.inputs) > 1:
        given = look.network.constants.get(operation.inputs[1])
    return None if given is None else [int(n) for n in given]


_RULES: dict[str, tuple[Callable[[_Look, Operation], _Found | None], ...]] = {"Mul": (_gelu,), "Div": (_layer_norm,)}
