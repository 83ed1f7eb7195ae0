"""Cut a graph where a single tensor connects its parts: the blocks of a network, each a network of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import onnx
from onnx.utils import Extractor

from bpudeploy.layout.rows import token_counts
from bpudeploy.restructure.edit import editable_graph

_SMALL = 8
"""Parts with fewer nodes are joined with the next one."""


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a network that occurs ``count`` times, alike but for its weights, and the ``name`` of the first."""

    name: str
    model: onnx.ModelProto
    count: int = 1

    @cached_property
    def tokens(self) -> frozenset[int]:
        """The numbers of tokens and keys by which its layout is chosen."""
        graph = editable_graph(self.model, ())
        keys = {node.shape[3] for node in graph.nodes.values() if node.op == "Softmax"}
        return frozenset(keys | {tokens for tokens in token_counts(graph) if tokens > 1})


def distinct_blocks(model: onnx.ModelProto) -> list[Block]:
    """Return the distinct blocks of a graph with one input and one output, in graph order.

    Two blocks are alike if their nodes, attributes and shapes are.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    found: dict[str, Block] = {}
    for block in all_blocks(inferred):
        key = _signature(block.model)
        found[key] = replace(found[key], count=found[key].count + 1) if key in found else block
    return list(found.values())


def all_blocks(model: onnx.ModelProto) -> Iterator[Block]:
    """Yield the blocks of a graph whose shapes are known, each with ``count`` 1."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    (start,) = (value.name for value in graph.input if value.name not in constants)
    left = Counter(name for node in graph.node for name in node.input) + Counter(value.name for value in graph.output)
    live, extractor, begun, first = {start}, Extractor(model), 0, start
    for i, node in enumerate(graph.node):
        left.subtract(node.input)
        live = {name for name in (*live, *node.output) if left[name] > 0 and name not in constants}
        last = i + 1 == len(graph.node)
        if last or (live == {node.output[0]} and i + 1 - begun >= _SMALL):
            yield Block(graph.node[begun].name, extractor.extract_model([first], [node.output[0]]))
            begun, first = i + 1, node.output[0]


def _signature(model: onnx.ModelProto) -> str:
    """Return a digest of operators, attributes and shapes, without names."""
    graph = model.graph
    numbers: dict[str, str] = {t.name: f"c{list(t.dims)}" for t in graph.initializer}
    for value in graph.input:
        numbers[value.name] = f"in{[d.dim_value for d in value.type.tensor_type.shape.dim]}"
    text = []
    for i, node in enumerate(graph.node):
        attributes = sorted(attribute.SerializeToString().hex() for attribute in node.attribute)
        text.append(f"{node.op_type} {[numbers.get(name, '') for name in node.input]} {attributes}")
        numbers |= {name: f"{i}.{j}" for j, name in enumerate(node.output)}
    return hashlib.sha256("\n".join(text).encode()).hexdigest()
