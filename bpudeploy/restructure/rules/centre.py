"""Fold the mean subtraction of LayerNorm into the weights before it: P = I - 11ᵀ/C, P(Wx + b) = (PW)x + Pb.

A norm over channels computes x - mean(x). If every producer of the residual stream x is linear (a convolution, a
constant, a sum, a move), P is folded into each; the stream then has zero mean at every pixel and the subtraction is
removed. Only such norms may read the stream. A non-linear producer is centred explicitly if fewer subtractions remain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bpudeploy.restructure.atoms import with_axis
from bpudeploy.restructure.graph import MOVE, POINTWISE_CONV, Graph, Node

_POINTWISE = frozenset({"Add", "Sub"})
_POOLS = frozenset({"GlobalAveragePool", "AveragePool"})

ChannelAxis = tuple[str, int]
"""A tensor and the physical axis of its channels."""


@dataclass
class _Stream:
    """The parts of one residual stream, as ordered sets: the order determines names, and so the bytes."""

    tensors: dict[ChannelAxis, None] = field(default_factory=dict)
    convolutions: dict[str, None] = field(default_factory=dict)
    constants: dict[tuple[str, str, int], None] = field(default_factory=dict)
    """(reader, constant, axis)"""
    nonlinear: dict[ChannelAxis, None] = field(default_factory=dict)
    """Tensors with a non-linear producer."""
    norms: dict[str, None] = field(default_factory=dict)


def centre(graph: Graph) -> int:
    """Remove the mean subtractions that can be folded; return how many."""
    readers = graph.readers()
    norms = {n.name: n for n in graph.nodes.values() if _is_centring(graph, n)}
    done: set[str] = set()
    count = 0
    for norm in norms.values():
        if norm.name in done:
            continue
        stream = _follow(graph, readers, norms, (norm.inputs[0], 1))
        done.add(norm.name)
        if stream is None or len(stream.nonlinear) >= len(stream.norms):
            continue
        done |= set(stream.norms)
        _fold(graph, stream)
        for name in stream.norms:
            graph.replace_uses(name, norms[name].inputs[0])
            graph.nodes.pop(name)
        count += len(stream.norms)
        readers = graph.readers()
    return count


def _is_centring(graph: Graph, node: Node) -> bool:
    """Return whether ``node`` is x - Conv(x; 1/C), with the mean over axis 1."""
    if node.op != "Sub":
        return False
    mean = graph.nodes.get(node.inputs[1])
    return mean is not None and _is_mean(graph, mean) and mean.inputs[0] == node.inputs[0]


def _is_mean(graph: Graph, node: Node) -> bool:
    if node.op != "Conv" or node.shape[1] != 1 or len(node.inputs) != 2:
        return False
    weight = graph.constants[node.inputs[1]]
    return weight.shape[0] == 1 and bool((weight == np.float32(1.0 / weight.shape[1])).all())


def _follow(graph: Graph, readers: dict[str, list[Node]], norms: dict[str, Node], start: ChannelAxis) -> _Stream | None:
    """Return the stream that contains ``start``, or None if a reader depends on its mean."""
    stream, todo, outputs = _Stream(), [start], graph.output_names
    while todo:
        channel_axis = todo.pop()
        if channel_axis in stream.tensors:
            continue
        stream.tensors[channel_axis] = None
        name, axis = channel_axis
        if name in outputs or any((name, other) in stream.tensors for other in range(4) if other != axis):
            return None
        if not _follow_back(graph, stream, channel_axis, todo):
            stream.nonlinear[channel_axis] = None
        for reader in readers.get(name, ()):
            if reader.name in norms and axis == 1:
                stream.norms[reader.name] = None
            elif not (
                _is_mean(graph, reader) and axis == 1 and all(r.name in norms for r in readers.get(reader.name, ()))
            ):
                after = _carried(graph, reader, name, axis)
                if after is None:
                    return None
                todo.append((reader.name, after))
    return stream


def _carried(graph: Graph, reader: Node, name: str, axis: int) -> int | None:
    """Return the channel axis after ``reader``, or None if it does not preserve the stream."""
    if reader.op == MOVE:
        source, target = reader.layouts
        return target.index(source[axis]) if source[axis] in target else None
    return axis if _keeps_mean(graph, reader, axis) and graph.shape(name)[axis] == reader.shape[axis] else None


def _keeps_mean(graph: Graph, node: Node, axis: int) -> bool:
    """Return whether inputs of mean zero over ``axis`` give such an output, if ``node`` is not a Move."""
    if node.op in _POINTWISE:
        return True
    if node.op == "Mul":
        return any(n in graph.constants and graph.shape(n)[axis] == 1 for n in node.inputs)
    acted = _acted_axes(graph, node)
    return acted is not None and axis not in acted


def _acted_axes(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """Return the axes that a Slice, Concat, pool or zero padding acts on; None for any other operator."""
    if node.op == "Concat":
        return (node.attributes["axis"],)
    if node.op == "Slice":
        return (int(graph.constants[node.inputs[3]][0]),)
    if node.op in _POOLS:
        return 2, 3
    if node.op == "ReduceMean":
        return tuple(node.attributes["axes"])
    if node.op == "Pad" and len(node.inputs) == 2 and node.attributes.get("mode") == "constant":
        amounts = graph.constants[node.inputs[1]]
        return tuple(i for i in range(4) if amounts[i] or amounts[i + 4])
    return None


def _follow_back(graph: Graph, stream: _Stream, channel_axis: ChannelAxis, todo: list[ChannelAxis]) -> bool:
    """Add the inputs of a tensor's producer to ``todo``, or a convolution to ``stream``; False if it is not linear."""
    name, axis = channel_axis
    node = graph.nodes.get(name)
    if node is None:
        return False
    if node.op == "Conv" and axis == 1 and node.attributes.get("group", 1) == 1 and not _is_mean(graph, node):
        stream.convolutions[name] = None
        return True
    if node.op == MOVE:
        source_dims, target_dims = node.layouts
        linear = target_dims[axis] in source_dims
        todo += [(node.inputs[0], source_dims.index(target_dims[axis]))] if linear else []
        return linear
    inputs = node.inputs if node.op in {"Concat", "Mul", *_POINTWISE} else node.inputs[:1]
    sources = [n for n in inputs if node.op != "Mul" or n not in graph.constants]
    if not _keeps_mean(graph, node, axis) or any(graph.shape(n)[axis] != node.shape[axis] for n in sources):
        return False
    stream.constants |= {(name, n, axis): None for n in sources if n in graph.constants}
    todo += [(n, axis) for n in sources if n not in graph.constants]
    return True


def _fold(graph: Graph, stream: _Stream) -> None:
    for name in stream.convolutions:
        node = graph.nodes[name]
        for index in range(1, len(node.inputs)):
            node.inputs[index] = _centred(graph, node.inputs[index], 0)
    for reader, constant, axis in stream.constants:
        node = graph.nodes[reader]
        new = _centred(graph, constant, axis)
        node.inputs = [new if n == constant else n for n in node.inputs]
    for name, axis in stream.nonlinear:
        _centre_here(graph, name, axis)
    for name, axis in stream.tensors:
        if axis == 1:
            graph.centred.add(name)
        else:
            graph.drop_counterparts({name})


def _centred(graph: Graph, name: str, axis: int) -> str:
    """Store a constant minus its mean over ``axis``, computed in float64; return its name."""
    new, array = graph.unique_name(f"{name}.centred"), graph.constants[name].astype(np.float64)
    graph.constants[new] = (array - array.mean(axis=axis, keepdims=True)).astype(np.float32)
    return new


def _centre_here(graph: Graph, name: str, axis: int) -> None:
    """Insert x - mean(x) after a non-linear producer, for all readers."""
    shape = graph.shape(name)
    mean, centred = graph.unique_name(f"{name}.mean"), graph.unique_name(f"{name}.centred")
    if axis == 1:
        weight = graph.unique_name("mean.weight")
        graph.constants[weight] = np.full((1, shape[1], 1, 1), 1.0 / shape[1], np.float32)
        head = Node("Conv", mean, [name, weight], (shape[0], 1, *shape[2:]), POINTWISE_CONV, keep_float=True)
    else:
        attributes = {"axes": [axis], "keepdims": 1}
        head = Node("ReduceMean", mean, [name], with_axis(shape, axis, 1), attributes, keep_float=True)
    graph.replace_uses(name, centred)
    graph.insert_after(name, [head, Node("Sub", centred, [name, mean], shape, keep_float=True)])
