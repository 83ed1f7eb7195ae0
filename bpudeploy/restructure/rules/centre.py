"""LayerNorm's mean goes into the weights that write the stream: P = I - 11ᵀ/C, P(Wx + b) = (PW)x + Pb.

A norm over channels reads x - mean(x). When everything that writes x is linear at its end (a convolution,
a constant, a sum, a move), each writer takes P up; the stream then has mean zero at every place, so the
norm's subtraction is nothing and its variance is a mean square. This holds only if nobody but such norms
reads the stream. A writer that is not linear is centred once, by itself, where that spares more than it costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bpudeploy.restructure.graph import MOVE, Graph, Node

_POINTWISE = frozenset({"Add", "Sub"})
_POOLS = frozenset({"GlobalAveragePool", "AveragePool"})

Place = tuple[str, int]
"""A tensor and its physical axis that holds the channels."""


@dataclass
class _Stream:
    """What one stream is made of; each an ordered set, as the order decides names and so the bytes."""

    places: dict[Place, None] = field(default_factory=dict)
    convolutions: dict[str, None] = field(default_factory=dict)
    constants: dict[tuple[str, str, int], None] = field(default_factory=dict)
    """Reader, constant, axis."""
    others: dict[Place, None] = field(default_factory=dict)
    """Tensors whose writers are not linear."""
    norms: dict[str, None] = field(default_factory=dict)


def centre(graph: Graph) -> int:
    """Remove the subtractions that can be folded; return how many."""
    readers = graph.readers()
    norms = {n.name: n for n in graph.nodes.values() if _is_centring(graph, n)}
    done: set[str] = set()
    count = 0
    for norm in norms.values():
        if norm.name in done:
            continue
        stream = _follow(graph, readers, norms, (norm.inputs[0], 1))
        done.add(norm.name)
        if stream is None or len(stream.others) >= len(stream.norms):
            continue
        done |= set(stream.norms)
        _fold(graph, stream)
        for name in stream.norms:
            graph.rename_reads(name, norms[name].inputs[0])
            graph.nodes.pop(name)
        count += len(stream.norms)
        readers = graph.readers()
    return count


def _is_centring(graph: Graph, node: Node) -> bool:
    """Whether ``node`` is x - Conv(x; 1/C), the mean over all of axis 1."""
    if node.op != "Sub":
        return False
    mean = graph.nodes.get(node.inputs[1])
    return mean is not None and _is_mean(graph, mean) and mean.inputs[0] == node.inputs[0]


def _is_mean(graph: Graph, node: Node) -> bool:
    if node.op != "Conv" or node.shape[1] != 1 or len(node.inputs) != 2:
        return False
    weight = graph.constants[node.inputs[1]]
    return weight.shape[0] == 1 and bool((weight == np.float32(1.0 / weight.shape[1])).all())


def _follow(graph: Graph, readers: dict[str, list[Node]], norms: dict[str, Node], start: Place) -> _Stream | None:
    """Return the whole stream around ``start``, None when somebody reads it who needs its mean."""
    stream, todo, outputs = _Stream(), [start], graph.output_names
    while todo:
        place = todo.pop()
        if place in stream.places:
            continue
        stream.places[place] = None
        name, axis = place
        if name in outputs or any((name, other) in stream.places for other in range(4) if other != axis):
            return None
        _writer(graph, stream, place, todo)
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
    """Return the channels' axis after ``reader``, None when it does not carry the stream on."""
    if reader.op == MOVE and reader.source is not None and reader.target is not None:
        group = reader.source[axis]
        return reader.target.index(group) if group in reader.target else None
    if reader.op in _POINTWISE:
        return axis if graph.shape(name)[axis] == reader.shape[axis] else None
    if reader.op == "Mul":
        (other,) = [n for n in reader.inputs if n != name] or [name]
        return axis if other in graph.constants and graph.shape(other)[axis] == 1 else None
    if _moves_along(graph, reader) is not None:
        return axis if axis not in (_moves_along(graph, reader) or ()) else None
    return None


def _moves_along(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """Return the axes that a Slice, Concat, pool or padding by zero acts on, None for any other operator."""
    if node.op == "Concat":
        return (node.attributes["axis"],)
    if node.op == "Slice":
        return (int(graph.constants[node.inputs[3]][0]),)
    if node.op in _POOLS:
        return 2, 3
    if node.op == "ReduceMean":
        return tuple(node.attributes["axes"])
    if node.op == "Pad" and len(node.inputs) == 2 and node.attributes.get("mode") in (b"constant", "constant"):
        amounts = graph.constants[node.inputs[1]]
        return tuple(i for i in range(4) if amounts[i] or amounts[i + 4])
    return None


def _writer(graph: Graph, stream: _Stream, place: Place, todo: list[Place]) -> None:
    """Add what writes ``place`` to the stream: its sources to ``todo``, or itself as an end."""
    name, axis = place
    node = graph.nodes.get(name)
    if node is None:
        stream.others[place] = None
        return
    if node.op == "Conv" and axis == 1 and node.attributes.get("group", 1) == 1 and not _is_mean(graph, node):
        stream.convolutions[name] = None
        return
    if node.op == MOVE and node.source is not None and node.target is not None:
        group = node.target[axis]
        if group in node.source:
            todo.append((node.inputs[0], node.source.index(group)))
        else:
            stream.others[place] = None
        return
    along = _moves_along(graph, node)
    inputs = node.inputs if node.op in {"Concat", *_POINTWISE} else node.inputs[:1]
    linear = node.op in _POINTWISE or (along is not None and axis not in along)
    linear = linear or (
        node.op == "Mul" and any(n in graph.constants and graph.shape(n)[axis] == 1 for n in node.inputs)
    )
    whole = all(graph.shape(n)[axis] == node.shape[axis] for n in inputs) if node.op != "Mul" else True
    if not linear or not whole:
        stream.others[place] = None
        return
    for source in node.inputs if node.op == "Mul" else inputs:
        if source in graph.constants:
            if node.op != "Mul":
                stream.constants[name, source, axis] = None
        else:
            todo.append((source, axis))


def _fold(graph: Graph, stream: _Stream) -> None:
    for name in stream.convolutions:
        node = graph.nodes[name]
        for index in range(1, len(node.inputs)):
            node.inputs[index] = _centred(graph, node.inputs[index], 0)
    for reader, constant, axis in stream.constants:
        node = graph.nodes[reader]
        new = _centred(graph, constant, axis)
        node.inputs = [new if n == constant else n for n in node.inputs]
    for name, axis in stream.others:
        _centre_here(graph, name, axis)
    for name, axis in stream.places:
        if axis == 1:
            graph.centred.add(name)
        else:
            graph.twins = [t for t in graph.twins if t.output.name != name]


def _centred(graph: Graph, name: str, axis: int) -> str:
    """Return the name of a constant without its mean over ``axis``; computed in float64."""
    new, array = graph.fresh(f"{name}.centred"), graph.constants[name].astype(np.float64)
    graph.constants[new] = (array - array.mean(axis=axis, keepdims=True)).astype(np.float32)
    return new


def _centre_here(graph: Graph, name: str, axis: int) -> None:
    """Put x - mean(x) behind a writer that is not linear, for all of its readers."""
    shape = graph.shape(name)
    mean, centred = graph.fresh(f"{name}.mean"), graph.fresh(f"{name}.centred")
    if axis == 1:
        weight = graph.fresh("mean.weight")
        graph.constants[weight] = np.full((1, shape[1], 1, 1), 1.0 / shape[1], np.float32)
        head = Node("Conv", mean, [name, weight], (shape[0], 1, *shape[2:]), _ONE, keep_float=True)
    else:
        small = tuple(1 if i == axis else n for i, n in enumerate(shape))
        head = Node("ReduceMean", mean, [name], small, {"axes": [axis], "keepdims": 1}, keep_float=True)
    graph.rename_reads(name, centred)
    graph.insert_after(name, [head, Node("Sub", centred, [name, mean], shape, keep_float=True)])


_ONE = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
