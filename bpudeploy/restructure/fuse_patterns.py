"""Pattern fusion: LayerNormalization and Gelu that an exporter decomposed into primitive operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bpudeploy.restructure.network import Network, Operation

_CLOSE = 1e-4


_Fusion = tuple[Operation, set[str]]
"""An operation, which replaces the nodes that give its output and these tensors."""


def fuse_patterns(network: Network) -> Network:
    """Return ``network`` with decomposed norms and GELUs as single operators; the outputs are equal."""
    matcher = _Matcher(network, {name: o for o in network.operations for name in o.outputs})
    replaced: dict[str, Operation] = {}
    removed: set[str] = set()
    for operation in network.operations:
        candidates = _RULES[operation.op](matcher, operation) if operation.op in _RULES else ()
        for fused, inside in candidates:
            if matcher.private(inside, operation.outputs[0]) and not inside & removed:
                replaced[operation.outputs[0]] = fused
                removed |= inside
                break
    kept = [replaced.get(o.outputs[0], o) for o in network.operations if o.outputs[0] not in removed]
    return replace(network, operations=tuple(kept))


@dataclass(frozen=True)
class _Matcher:
    """Queries on the operations before another."""

    network: Network
    producers: dict[str, Operation]

    def number(self, name: str) -> float | None:
        """Return the value of a constant of one element."""
        array = self.network.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def before(self, name: str, *ops: str) -> Operation | None:
        """Return the producer of ``name`` if its operator is one of ``ops``."""
        producer = self.producers.get(name)
        return producer if producer is not None and producer.op in ops else None

    def pair(self, operation: Operation) -> list[tuple[str, str]]:
        """Return the first two inputs in both orders."""
        a, b = operation.inputs[:2]
        return [(a, b), (b, a)]

    def with_number(self, operation: Operation | None, number: float) -> str | None:
        """Return the other input of ``operation`` if one of the two is close to ``number``."""
        if operation is None:
            return None
        for a, b in self.pair(operation):
            found = self.number(b)
            if found is not None and abs(found - number) <= _CLOSE * abs(number):
                return a
        return None

    def private(self, names: set[str], last: str) -> bool:
        """Return whether only ``names`` and ``last`` read the tensors ``names``."""
        inside = names | {last}
        outputs = set(self.network.outputs)
        return all(
            name not in outputs and all(set(r.outputs) <= inside for r in self.network.readers.get(name, ()))
            for name in names
        )


def _gelu(matcher: _Matcher, last: Operation) -> Iterator[_Fusion]:
    """Match x · (1 + erf(x / √2)) · ½ in any order of the products."""
    for half, rest in _halves(matcher, last):
        for x, total_name in rest:
            total = matcher.before(total_name, "Add")
            erf = matcher.before(matcher.with_number(total, 1.0) or "", "Erf")
            if total is None or erf is None:
                continue
            inner = matcher.before(erf.inputs[0], "Div", "Mul")
            root = math.sqrt(2.0) if inner is not None and inner.op == "Div" else math.sqrt(0.5)
            if inner is not None and matcher.with_number(inner, root) == x:
                fused = replace(last, op="Gelu", path=erf.path, inputs=(x,), attributes={})
                yield fused, {half, total.outputs[0], erf.outputs[0], inner.outputs[0]} - {last.outputs[0]}


def _halves(matcher: _Matcher, last: Operation) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield, for each way to read ``last`` as ½ · a · b, the inner product's tensor and (a, b) in both orders."""
    product = matcher.before(matcher.with_number(last, 0.5) or "", "Mul")
    if product is not None:
        yield product.outputs[0], matcher.pair(product)
    for a, b in matcher.pair(last):
        halved = matcher.before(a, "Mul")
        x = matcher.with_number(halved, 0.5)
        if halved is not None and x is not None:
            yield halved.outputs[0], [(x, b), (b, x)]


def _layer_norm(matcher: _Matcher, last: Operation) -> Iterator[_Fusion]:
    """Match (x - mean) / sqrt(mean((x - mean)²) + ε) over the last axis; γ and β stay separate."""
    centred, root = matcher.before(last.inputs[0], "Sub"), matcher.before(last.inputs[1], "Sqrt")
    total = matcher.before(root.inputs[0], "Add") if root is not None else None
    if centred is None or root is None or total is None:
        return
    for variance_name, eps_name in matcher.pair(total):
        eps, variance = matcher.number(eps_name), matcher.before(variance_name, "ReduceMean")
        square = matcher.before(variance.inputs[0], "Pow", "Mul") if variance is not None else None
        if eps is None or variance is None or square is None or square.inputs[0] != centred.outputs[0]:
            continue
        if square.inputs[1] != centred.outputs[0] and matcher.number(square.inputs[1]) != 2.0:
            continue
        x, mean = centred.inputs[0], matcher.before(centred.inputs[1], "ReduceMean")
        axes = _axes(matcher, variance)
        if mean is None or mean.inputs[0] != x or _axes(matcher, mean) != axes or axes != [-1]:
            continue
        fused = replace(last, op="LayerNormalization", inputs=(x,), attributes={"axis": -1, "epsilon": eps})
        yield fused, {o.outputs[0] for o in (centred, root, total, variance, square, mean)}


def _axes(matcher: _Matcher, operation: Operation) -> list[int] | None:
    given: Any = operation.attributes.get("axes")
    if given is None and len(operation.inputs) > 1:
        given = matcher.network.constants.get(operation.inputs[1])
    return None if given is None else [int(n) for n in given]


_RULES: dict[str, Callable[[_Matcher, Operation], Iterator[_Fusion]]] = {"Mul": _gelu, "Div": _layer_norm}
