"""Move Slices before the nodes that they follow: f(x)[a:b] = f(x[a:b]) if f acts on each element alone.

A classifier that reads one token then computes the last norm, MLP and queries for that token only. If several
Slices read a tensor, the range outside all of them is removed.
"""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.atoms import new_axis, with_axis
from bpudeploy.restructure.graph import MOVE, UNARY, Graph, Node

_ELEMENTWISE = UNARY | {"Add", "Sub", "Mul", "Div", "Pow", "Clip"}


def narrow(graph: Graph) -> int:
    """Move every Slice as far up as possible; return the number of steps."""
    count = 0
    while (step := _next_step(graph)) is not None:
        _apply(graph, *step)
        count += 1
    return count


def _next_step(graph: Graph) -> tuple[Node, int, int, int] | None:
    """Return a node of which only [start, stop) of an axis is read, as (node, axis, start, stop)."""
    readers = graph.readers()
    for node in reversed(graph.nodes.values()):
        cuts = [_cut(graph, r) for r in readers.get(node.name, ())]
        if not cuts or None in cuts or node.name in graph.output_names:
            continue
        axes = {c[0] for c in cuts if c}
        if len(axes) != 1:
            continue
        (axis,) = axes
        start, stop = min(c[1] for c in cuts if c), max(c[2] for c in cuts if c)
        if (stop - start) * 2 <= node.shape[axis] and _narrows(node, axis):
            return node, axis, start, stop
    return None


def _cut(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """Return (axis, start, stop) of a Slice with step 1."""
    if node.op != "Slice" or len(node.inputs) != 5:
        return None
    start, stop, axis, step = (int(graph.constants[n][0]) for n in node.inputs[1:])
    return (axis, start, stop) if step == 1 and start >= 0 and stop > start else None


def _narrows(node: Node, axis: int) -> bool:
    """Return whether slicing the inputs slices the output likewise."""
    if node.op == MOVE:
        source, target = node.layouts
        return bool(target[axis]) and target[axis] in source
    if node.op == "Conv":
        plain = node.attributes["kernel_shape"] == [1, 1] and node.attributes["strides"] == [1, 1]
        return plain and not any(node.attributes["pads"]) and axis >= 2
    if node.op == "MatMul":
        return axis >= 2
    if node.op == "Softmax":
        return axis != 3
    return node.op in _ELEMENTWISE


def _apply(graph: Graph, node: Node, axis: int, start: int, stop: int) -> None:
    full = node.shape[axis]
    graph.cut_counterpart(node.name, axis, start, stop)
    node.shape = with_axis(node.shape, axis, stop - start)
    before: list[Node] = []
    for index in _sliced_inputs(node, axis):
        name, at = node.inputs[index], axis
        if node.op == MOVE:
            source, target = node.layouts
            at = source.index(target[axis])
        if graph.shape(name)[at] == full and full > 1:
            node.inputs[index] = _sliced(graph, before, name, at, start, stop)
    if node.op == MOVE:
        source, target = node.layouts
        node.source = with_axis(source, source.index(target[axis]), new_axis(stop - start))
        node.target = with_axis(target, axis, node.source[source.index(target[axis])])
    graph.insert_before(node.name, before)
    for reader in graph.readers().get(node.name, ()):
        _, a, b = _cut(graph, reader) or (0, 0, 0)
        reader.inputs = [node.name, *_bounds(graph, a - start, b - start, axis)]
    for reader in [r for r in graph.readers().get(node.name, ()) if r.shape == node.shape]:
        if reader.name not in graph.output_names:
            graph.replace_uses(reader.name, node.name)
            graph.rename_counterpart(reader.name, node.name)
            del graph.nodes[reader.name]


def _sliced_inputs(node: Node, axis: int) -> range:
    """Return the indices of inputs that ``axis`` of the output slices: all, the first, or one side of a product."""
    if node.op == "MatMul":
        return range(axis - 2, axis - 1)
    return range(1 if node.op in ("Conv", MOVE, "Softmax", "Clip", "Pow") else len(node.inputs))


def _sliced(graph: Graph, before: list[Node], name: str, axis: int, start: int, stop: int) -> str:
    part = graph.unique_name(f"{name}.part")
    if name in graph.constants:
        graph.constants[part] = graph.constants[name].take(range(start, stop), axis=axis)
    else:
        shape = with_axis(graph.shape(name), axis, stop - start)
        before.append(Node("Slice", part, [name, *_bounds(graph, start, stop, axis)], shape))
    return part


def _bounds(graph: Graph, start: int, stop: int, axis: int) -> list[str]:
    names = []
    for number in (start, stop, axis, 1):
        name = f"index.{number}"
        graph.constants.setdefault(name, np.array([number], np.int64))
        names.append(name)
    return names
