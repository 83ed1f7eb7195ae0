"""Split a softmax into two ranges, for a march whose MatMul takes int8 only.

Most entries of a softmax over hundreds of tokens are near 1 / tokens, and a few are near 1. A single int8 scale either
rounds the many to 0 or clips the few. P = min(P, t) + max(P - t, 0) is exact, and each part has its own scale.
P V = min(P, t) V + max(P - t, 0) V costs one more MatMul, a small part of a transformer's compute.

The same holds for the exponentials E of a softmax that is written out (``layout.heads``), whose largest value is
exp(5.6) in every row (``exponents``). The two quotients are added, not the products: hb_mapper 1.24.3 lays a sum of two
products in columns, 13 us for each of its moves (one attention of a ViT-S on X5: 717 us, with quotients 660).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.attentions import find_quotient
from bpudeploy.quantize.exponents import RAISED, raised
from bpudeploy.quantize.onnx_edit import put_constant, set_nodes
from bpudeploy.quantize.taps import GraphIndex, softmax_input

LIMIT = 1.0 / 16.0
"""At most 16 entries of a row can exceed it."""
_RAISED_LIMIT = LIMIT * math.exp(RAISED)
_SIDES = "small", "large"


@dataclass(frozen=True)
class _WrittenOut:
    """The nodes of (E V) / sum E: E, E as the product reads it, the product, its Transpose, the quotient."""

    exponentials: onnx.NodeProto
    turn: onnx.NodeProto
    product: onnx.NodeProto
    back: onnx.NodeProto
    quotient: onnx.NodeProto

    def parts(self, model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
        """Return, by name of a node, the nodes that take its place."""
        low, high = parts = tuple(f"{self.product.name}.{part}" for part in ("low", "high"))
        inverse = next(name for name in self.quotient.input if name != self.back.output[0])
        weights = self.exponentials.output[0]
        found = {self.exponentials.name: [self.exponentials, *_ranges(model, weights, low, high, _RAISED_LIMIT)]}
        found |= {node.name: [] for node in (self.turn, self.product, self.back)}
        quotients = []
        for part, side in zip(parts, _SIDES, strict=True):
            product, back, quotient = (f"{node.name}.{side}" for node in (self.product, self.back, self.quotient))
            turned = _like(self.turn, [part], f"{part}.turned")
            found[self.product.name] += [
                turned,
                _like(self.product, [turned.output[0], self.product.input[1]], product),
            ]
            found[self.back.name].append(_like(self.back, [product], back))
            quotients.append(_like(self.quotient, [back, inverse], quotient))
        found[self.quotient.name] = [*quotients, _sum(quotients, self.quotient)]
        return found


def split_softmax(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with each MatMul that reads a softmax split in two, and how many were split.

    The final Add keeps the name and the output of the MatMul, or of the quotient of one that is written out; the
    products are ``NAME.small`` and ``NAME.large``.
    """
    index, out, exponents = GraphIndex(model), copy_model(model), raised(model)
    changed: dict[str, list[onnx.NodeProto]] = {}
    count = 0
    for node in model.graph.node:
        side, written = softmax_input(index, node), _written_out(index, node, exponents)
        if side is not None:
            changed[node.name] = list(_split(out, node, side))
        elif written is not None:
            changed |= written.parts(out)
        count += side is not None or written is not None
    set_nodes(out, (new for node in model.graph.node for new in changed.get(node.name, [node])))
    return out, count


def _written_out(index: GraphIndex, node: onnx.NodeProto, exponents: Collection[str]) -> _WrittenOut | None:
    """Return the written-out softmax of raised exponents whose product is ``node``, or None."""
    found = find_quotient(index, node)
    if found is None:
        return None
    exponentials, turn, back = (index.producers[n] for n in (found.exponentials, node.input[0], found.dividend))
    single = all(len(index.readers[n.output[0]]) == 1 for n in (turn, node, back)) and turn is not exponentials
    if exponentials.input[0] not in exponents or not single:
        return None
    if turn.input[0] != exponentials.output[0] or back.input[0] != node.output[0] or back is node:
        return None
    return _WrittenOut(exponentials, turn, node, back, index.producers[found.quotient])


def _ranges(model: onnx.ModelProto, weights: str, low: str, high: str, limit: float) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that cut ``weights`` into two ranges."""
    most = put_constant(model, f"softmax.limit.{limit:g}", np.array(limit, np.float32))
    less = put_constant(model, f"softmax.limit.{-limit:g}", np.full((1, 1, 1, 1), -limit, np.float32))
    above = f"{high.removesuffix('.high')}.above"
    yield helper.make_node("Clip", [weights, "", most], [low], name=low)
    yield helper.make_node("Add", [weights, less], [above], name=above)
    yield helper.make_node("Relu", [above], [high], name=high)


def _split(model: onnx.ModelProto, node: onnx.NodeProto, side: int) -> Iterator[onnx.NodeProto]:
    """Yield two products for the one of ``node``, whose input ``side`` is a softmax."""
    low, high = (f"{node.name}.{part}" for part in ("low", "high"))
    yield from _ranges(model, node.input[side], low, high, LIMIT)
    products = []
    for part, name in zip((low, high), _SIDES, strict=True):
        read = [part, node.input[1]] if side == 0 else [node.input[0], part]
        products.append(_like(node, read, f"{node.name}.{name}"))
    yield from (*products, _sum(products, node))


def _like(node: onnx.NodeProto, inputs: list[str], name: str) -> onnx.NodeProto:
    """Return ``node`` with other inputs, and another name for itself and its output."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[:], made.output[:], made.name = inputs, [name], name
    return made


def _sum(nodes: list[onnx.NodeProto], whole: onnx.NodeProto) -> onnx.NodeProto:
    """Return the Add of two nodes' outputs, in place of ``whole``."""
    return helper.make_node("Add", [node.output[0] for node in nodes], list(whole.output), name=whole.name)
