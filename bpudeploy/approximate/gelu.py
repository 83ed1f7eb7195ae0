"""gelu: replace Φ(x) = (1 + erf(x/√2)) / 2 in GELU(x) = x·Φ(x) by a cheaper function.

| form | 2Φ(x) is | maximum error of GELU | source |
|---|---|---|---|
| tanh | 1 + tanh(√(2/π)·(x + 0.044715·x³)) | 0.00048 | Hendrycks and Gimpel, arXiv 1606.08415 |
| quick | 2·sigmoid(1.702·x) | 0.0204 | the same |
| piecewise | 1 + a·clip(x, ±m) + c·clip(x, ±b) | 0.0201 | ``fit_piecewise`` |

piecewise: 2Φ is piecewise linear, so GELU is piecewise quadratic; its operators are only Clip, Mul and Add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import emit, scalar, store, tidy
from bpudeploy.restructure.graph import Graph, Node
from bpudeploy.spec.approximate import GeluForm

_F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Piecewise:
    """2Φ(x) ≈ 1 + ``inner_slope``·clip(x, ±``inner``) + ``outer_slope``·clip(x, ±``outer``), from 0 to 2."""

    inner: float
    outer: float
    outer_slope: float

    @property
    def inner_slope(self) -> float:
        """The slope for which 2Φ ends at 0 and 2."""
        return (1 - self.outer_slope * self.outer) / self.inner


PIECEWISE = Piecewise(inner=1.2418, outer=2.3926, outer_slope=0.15817)
"""The rounded result of ``fit_piecewise``; enforced by a test."""


def approximate_gelu(graph: Graph, form: GeluForm) -> str:
    """Replace every exact GELU; return a summary.

    Raises:
        StageError: there is no exact GELU.
    """
    gelus = [(node, x) for node in graph.nodes.values() if (x := _argument(graph, node)) is not None]
    if not gelus:
        others = sorted({n.op for n in graph.nodes.values()} & {"Tanh", "Sigmoid", "Relu", "Erf", "HardSigmoid"})
        raise StageError(
            f"the graph has no exact GELU, 1 + Erf(x / √2); its activations: {', '.join(others) or 'none'}",
            hint="remove restructure.approximate.gelu",
        )
    cheaper = {GeluForm.QUICK: _quick, GeluForm.TANH: _tanh, GeluForm.PIECEWISE: _piecewise}[form]
    for node, x in gelus:
        graph.replace_uses(node.name, cheaper(graph, node, x))
    tidy(graph)
    return f"{len(gelus)} GELUs in the form {form.value}"


def fit_piecewise() -> tuple[Piecewise, float]:
    """Return the Piecewise that minimises the maximum error of GELU, and that error.

    For fixed limits the maximum error is convex in the slope: ternary search. The limits are searched on grids of
    13 x 13, each half as wide, around the best so far. x is in [0, 4]: the error is symmetric, and beyond 4 GELU is
    x or 0 to within 0.0002.
    """
    x = np.linspace(0.0, 4.0, 801)
    exact = np.array([math.erf(v / math.sqrt(2.0)) for v in x])
    best, worst, half = np.array([1.2, 2.5]), np.inf, 0.6

    def errors(inner: _F64, outer: _F64, slope: _F64) -> _F64:
        line = (1 - slope * outer) / inner * np.minimum(x, inner) + slope * np.minimum(x, outer)
        return np.asarray(np.abs(x * (line - exact) / 2).max(axis=-1, keepdims=True))

    while half > 1e-4:
        inner, outer = (m[..., None] for m in np.meshgrid(*(np.linspace(c - half, c + half, 13) for c in best)))
        low, high = np.zeros_like(inner), np.full_like(inner, 0.4)
        for _ in range(30):
            third = (high - low) / 3
            left = errors(inner, outer, low + third) < errors(inner, outer, high - third)
            low, high = np.where(left, low, low + third), np.where(left, high - third, high)
        found = errors(inner, outer, low)
        at = np.unravel_index(found.argmin(), found.shape)
        if found[at] < worst:
            worst, best, slope = float(found[at]), np.array([inner[at], outer[at]]), float(low[at])
        half /= 2
    return Piecewise(float(best[0]), float(best[1]), slope), worst


def _argument(graph: Graph, node: Node) -> str | None:
    """Return x if ``node`` is 1 + Erf(x / √2)."""
    erf = next((graph.nodes[i] for i in node.inputs if i in graph.nodes and graph.nodes[i].op == "Erf"), None)
    if node.op != "Add" or erf is None or _constant(graph, node) != 1.0:
        return None
    inner = graph.nodes.get(erf.inputs[0])
    if inner is None or inner.op not in ("Mul", "Div"):
        return None
    factor = _constant(graph, inner)
    if factor is None or (inner.op == "Div" and inner.inputs[0] in graph.constants):
        return None
    scale = factor if inner.op == "Mul" else 1 / factor
    if not math.isclose(scale, math.sqrt(0.5), rel_tol=1e-5):
        return None
    return next(name for name in inner.inputs if name not in graph.constants)


def _constant(graph: Graph, node: Node) -> float | None:
    """Return the constant operand if it has one element."""
    arrays = [graph.constants[name] for name in node.inputs if name in graph.constants]
    return float(arrays[0].reshape(-1)[0]) if len(arrays) == 1 and arrays[0].size == 1 else None


def _tanh(graph: Graph, node: Node, x: str) -> str:
    root, base, shape = math.sqrt(2 / math.pi), node.name, node.shape
    square = emit(graph, "Mul", f"{base}.square", [x, x], shape)
    cubic = emit(graph, "Mul", f"{base}.bent", [square, scalar(graph, 0.044715 * root)], shape)
    slope = emit(graph, "Add", f"{base}.slope", [cubic, scalar(graph, root)], shape)
    inner = emit(graph, "Mul", f"{base}.inner", [x, slope], shape)
    tanh = emit(graph, "Tanh", f"{base}.tanh", [inner], shape)
    return emit(graph, "Add", f"{base}.phi", [tanh, scalar(graph, 1.0)], shape)


def _piecewise(graph: Graph, node: Node, x: str) -> str:
    base, shape, p = node.name, node.shape, PIECEWISE
    parts = []
    for name, limit, slope in (("inner", p.inner, p.inner_slope), ("outer", p.outer, p.outer_slope)):
        limits = [store(graph, np.array(v, np.float32), f"{base}.limit") for v in (-limit, limit)]
        clip = emit(graph, "Clip", f"{base}.{name}", [x, *limits], shape)
        parts.append(emit(graph, "Mul", f"{base}.{name}.slope", [clip, scalar(graph, slope)], shape))
    both = emit(graph, "Add", f"{base}.lines", parts, shape)
    return emit(graph, "Add", f"{base}.phi", [both, scalar(graph, 1.0)], shape)


def _quick(graph: Graph, node: Node, x: str) -> str:
    """Return sigmoid(1.702·x), its factor 2 folded into the ½ that follows or into the next convolution."""
    base, shape = node.name, node.shape
    inner = emit(graph, "Mul", f"{base}.inner", [x, scalar(graph, 1.702)], shape)
    sigmoid = emit(graph, "Sigmoid", f"{base}.sigmoid", [inner], shape)
    chain = [*graph.chain(node.name, graph.readers())]
    half = next((n for n in chain[1:2] if n.op == "Mul" and _constant(graph, n) is not None), None)
    if chain and chain[0].op == "Mul" and half is not None and half.name not in graph.output_names:
        factor = 2 * (_constant(graph, half) or 0.0)
        if factor == 1.0:
            graph.replace_uses(half.name, chain[0].name)
        else:
            half.inputs = [n if n in graph.nodes else scalar(graph, factor) for n in half.inputs]
    elif len(chain) > 1 and chain[0].op == "Mul" and chain[1].op == "Conv":
        weight = graph.constants[chain[1].inputs[1]]
        chain[1].inputs[1] = store(graph, (2 * weight).astype(weight.dtype), chain[1].inputs[1])
    else:
        return emit(graph, "Mul", f"{base}.phi", [sigmoid, scalar(graph, 2.0)], shape)
    return sigmoid
