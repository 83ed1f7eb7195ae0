"""A Slice goes before what it cuts: f(x)[a:b] = f(x[a:b]) for whatever acts on each place alone.

A classifier reads one token: the last norm, the last MLP and the last queries are then computed for that
token only. Where several slices read a tensor, what none of them reads is cut off.
"""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.atoms import Dims, new_axis
from bpudeploy.restructure.graph import MOVE, UNARY, Graph, Node

_EACH = UNARY | {"Add", "Sub", "Mul", "Div", "Pow", "Clip"}


def narrow(graph: Graph) -> int:
    """Move every Slice up as far as it goes; return how many steps that were."""
    count = 0
    while (step := _one(graph)) is not None:
        _apply(graph, *step)
        count += 1
    return count


def _one(graph: Graph) -> tuple[Node, int, int, int] | None:
    """Return a node of which only [start, stop) of an axis is read."""
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
    """Return (axis, start, stop) of a Slice of step 1."""
    if node.op != "Slice" or len(node.inputs) != 5:
        return None
    start, stop, axis, step = (int(graph.constants[n][0]) for n in node.inputs[1:])
    return (axis, start, stop) if step == 1 and start >= 0 and stop > start else None


def _narrows(node: Node, axis: int) -> bool:
    """Whether a slice of the output is the output of a slice of the inputs."""
    if node.op == MOVE:
        return (
            node.source is not None
            and node.target is not None
            and node.target[axis] in node.source
            and bool(node.target[axis])
        )
    if node.op == "Conv":
        plain = node.attributes["kernel_shape"] == [1, 1] and node.attributes["strides"] == [1, 1]
        return plain and not any(node.attributes["pads"]) and axis >= 2
    if node.op == "MatMul":
        return axis >= 2
    if node.op == "Softmax":
        return axis != 3
    return node.op in _EACH


def _apply(graph: Graph, node: Node, axis: int, start: int, stop: int) -> None:
    full = node.shape[axis]
    graph.cut_twin(node.name, axis, start, stop)
    _resize(node, axis, stop - start)
    before: list[Node] = []
    for index in _sliced_inputs(node, axis):
        name = node.inputs[index]
        at = axis
        if node.op == MOVE and node.source is not None and node.target is not None:
            at = node.source.index(node.target[axis])
        if graph.shape(name)[at] == full and full > 1:
            node.inputs[index] = _sliced(graph, before, name, at, start, stop)
    if node.op == MOVE:
        _shrink(node, axis, stop - start)
    graph.insert_before(node.name, before)
    for reader in graph.readers().get(node.name, ()):
        _, a, b = _cut(graph, reader) or (0, 0, 0)
        reader.inputs = [node.name, *_bounds(graph, a - start, b - start, axis)]
    for reader in [r for r in graph.readers().get(node.name, ()) if r.shape == node.shape]:
        if reader.name not in graph.output_names:
            graph.rename_reads(reader.name, node.name)
            graph.rename_twin(reader.name, node.name)
            del graph.nodes[reader.name]


def _sliced_inputs(node: Node, axis: int) -> range:
    """Return which inputs run along ``axis`` of the output: all, the first, or one side of a product."""
    if node.op == "MatMul":
        return range(axis - 2, axis - 1)
    return range(1 if node.op in ("Conv", MOVE, "Softmax", "Clip", "Pow") else len(node.inputs))


def _resize(node: Node, axis: int, n: int) -> None:
    node.shape = tuple(n if i == axis else m for i, m in enumerate(node.shape))


def _shrink(node: Node, axis: int, n: int) -> None:
    """Give the axis that a move carries whole its new size."""
    assert node.source is not None and node.target is not None
    group, new = node.target[axis], new_axis(n)
    source: Dims = tuple(new if g == group else g for g in node.source)  # type: ignore[assignment]
    target: Dims = tuple(new if g == group else g for g in node.target)  # type: ignore[assignment]
    node.source, node.target = source, target


def _sliced(graph: Graph, before: list[Node], name: str, axis: int, start: int, stop: int) -> str:
    if name in graph.constants:
        new = graph.fresh(f"{name}.part")
        graph.constants[new] = graph.constants[name].take(range(start, stop), axis=axis)
        return new
    new = graph.fresh(f"{name}.part")
    shape = tuple(stop - start if i == axis else m for i, m in enumerate(graph.shape(name)))
    before.append(Node("Slice", new, [name, *_bounds(graph, start, stop, axis)], shape))
    return new


def _bounds(graph: Graph, start: int, stop: int, axis: int) -> list[str]:
    names = []
    for number in (start, stop, axis, 1):
        name = f"index.{number}"
        graph.constants.setdefault(name, np.array([number], np.int64))
        names.append(name)
    return names
