"""Where the heads of an attention are, in every tensor from the convolutions that make q, k, v to the projection.

A tensor's axis that holds heads is (outer, heads, size) in memory order. The place is followed from the softmax both
ways through reshapes, transposes and products; it ends at convolutions, which lose rows (made) or columns (read).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from bpudeploy.approximate.read import BINARY, UNARY, shape_constant, store
from bpudeploy.errors import StageError
from bpudeploy.restructure.graph import Graph, Node

_EACH = UNARY | BINARY | {"Softmax"}


@dataclass(frozen=True)
class Place:
    """Axis ``axis`` is (``outer``, heads, ``size``)."""

    axis: int
    outer: int
    size: int


@dataclass
class HeadMap:
    """``tensors`` hold the heads; ``rows`` are convolutions that make them, ``projections`` those that end them.

    ``constants`` are (reader, input) of constants with an entry for each head.
    """

    count: int
    tensors: dict[str, Place] = field(default_factory=dict)
    rows: dict[str, Place] = field(default_factory=dict)
    projections: list[tuple[str, Place]] = field(default_factory=list)
    constants: list[tuple[str, int]] = field(default_factory=list)

    @property
    def columns(self) -> NDArray[np.int64]:
        """For each head (heads, channels): the input channels of the projection that are its own."""
        place = self.projections[0][1]
        numbers = np.arange(place.outer * self.count * place.size).reshape(place.outer, self.count, place.size)
        return numbers.transpose(1, 0, 2).reshape(self.count, -1)

    @property
    def size(self) -> int:
        """Channels of one head at the projection."""
        return int(self.columns.shape[1])

    def keep(self, place: Place, gone: Collection[int]) -> NDArray[np.int64]:
        """Return the indices along the axis of ``place`` that stay."""
        numbers = np.arange(place.outer * self.count * place.size).reshape(place.outer, self.count, place.size)
        return numbers[:, [h for h in range(self.count) if h not in gone]].reshape(-1)


def map_heads(graph: Graph, softmax: str, inside: Collection[str], where: str) -> HeadMap:
    """Return where the heads of this softmax are: on its axis 1, before or behind windows where it has those.

    The largest number of heads that can be followed is the one, for windows never become channels.

    Args:
        inside: the nodes of the branch.

    Raises:
        StageError: something stands between that does not keep heads apart.
    """
    axis = graph.shape(softmax)[1]
    refused = []
    for windows in (w for w in range(1, axis // 2 + 1) if axis % w == 0):
        for place in (Place(1, 1, windows), Place(1, windows, 1))[: 1 if windows == 1 else 2]:
            try:
                return _follow(graph, softmax, HeadMap(axis // windows), place, inside, where)
            except StageError as error:
                refused.append(error)
    raise refused[0]


def _follow(graph: Graph, softmax: str, found: HeadMap, start: Place, inside: Collection[str], where: str) -> HeadMap:
    todo = [(softmax, start)]
    readers = graph.readers()
    while todo:
        name, place = todo.pop()
        if name in found.tensors:
            if found.tensors[name] != place:
                raise _refuse(where, graph.nodes[name])
            continue
        if name not in inside:
            raise _refuse(where, graph.nodes.get(name, graph.nodes[softmax]))
        found.tensors[name] = place
        node = graph.nodes[name]
        todo += _sources(graph, found, node, place, where)
        for reader in readers.get(name, ()):
            todo += _results(graph, found, reader, name, place, where)
    return found


def remove_heads(graph: Graph, heads: HeadMap, gone: Sequence[int]) -> None:
    """Take the heads ``gone`` out of every tensor, weight and constant."""
    for name, place in heads.tensors.items():
        node = graph.nodes[name]
        node.shape = tuple(
            n // heads.count * (heads.count - len(gone)) if i == place.axis else n for i, n in enumerate(node.shape)
        )
        if node.op == "Reshape":
            node.inputs[1] = shape_constant(graph, node.shape)
    for name, place in heads.rows.items():
        node, kept = graph.nodes[name], heads.keep(place, gone)
        for i in range(1, len(node.inputs)):
            node.inputs[i] = store(graph, graph.constants[node.inputs[i]][kept], f"{node.inputs[i]}.pruned")
    for name, place in heads.projections:
        node, kept = graph.nodes[name], heads.keep(place, gone)
        node.inputs[1] = store(graph, graph.constants[node.inputs[1]][:, kept], f"{node.inputs[1]}.pruned")
    for name, i in heads.constants:
        node, place = graph.nodes[name], heads.tensors[name]
        array = graph.constants[node.inputs[i]].take(heads.keep(place, gone), axis=place.axis)
        node.inputs[i] = store(graph, array, f"{node.inputs[i]}.pruned")


def _refuse(where: str, node: Node) -> StageError:
    return StageError(
        f"{where}: its heads cannot be followed through {node.op} ({node.name})",
        hint="prune_heads is for plain softmax attention with several heads: use drop_blocks here",
    )


def _sources(graph: Graph, found: HeadMap, node: Node, place: Place, where: str) -> list[tuple[str, Place]]:
    """Return where the heads are in what ``node`` reads."""
    if node.op == "Conv":
        if place.axis != 1 or int(node.attributes.get("group", 1)) != 1:
            raise _refuse(where, node)
        found.rows[node.name] = place
        return []
    if node.op == "Reshape":
        return [(node.inputs[0], _reshaped(found, place, node.shape, graph.shape(node.inputs[0]), where, node))]
    if node.op == "Transpose":
        return [(node.inputs[0], Place(int(node.attributes["perm"][place.axis]), place.outer, place.size))]
    if node.op == "Slice" and int(graph.constants[node.inputs[3]][0]) != place.axis:
        return [(node.inputs[0], place)]
    if node.op == "MatMul" and place.axis < 2:
        return [(name, place) for name in node.inputs]
    if node.op not in _EACH or (node.op == "Softmax" and place.axis == 3):
        raise _refuse(where, node)
    sources = []
    for i, name in enumerate(node.inputs):
        shape = (1,) * (4 - len(graph.shape(name))) + graph.shape(name)
        if shape[place.axis] == 1:
            continue
        if name in graph.constants:
            found.constants.append((node.name, i))
        else:
            sources.append((name, place))
    return sources


def _results(
    graph: Graph, found: HeadMap, reader: Node, name: str, place: Place, where: str
) -> list[tuple[str, Place]]:
    """Return where the heads are in what ``reader`` makes of the tensor ``name``."""
    if reader.op == "Conv":
        if place.axis != 1 or int(reader.attributes.get("group", 1)) != 1 or name != reader.inputs[0]:
            raise _refuse(where, reader)
        found.projections.append((reader.name, place))
        return []
    if reader.op == "Reshape":
        return [(reader.name, _reshaped(found, place, graph.shape(name), reader.shape, where, reader))]
    if reader.op == "Transpose":
        return [(reader.name, Place(list(reader.attributes["perm"]).index(place.axis), place.outer, place.size))]
    if reader.op in _EACH or reader.op == "Slice" or (reader.op == "MatMul" and place.axis < 2):
        return [(reader.name, place)]
    raise _refuse(where, reader)


def _reshaped(
    found: HeadMap, place: Place, before: Sequence[int], after: Sequence[int], where: str, node: Node
) -> Place:
    """Return the place after a change of shape: what lies before the heads in memory stays before them."""
    outer = prod(before[: place.axis]) * place.outer
    inner = place.size * prod(before[place.axis + 1 :])
    for axis in range(4):
        ahead, behind = prod(after[:axis]), prod(after[axis + 1 :])
        if after[axis] > 1 and outer % ahead == 0 and inner % behind == 0:
            new = Place(axis, outer // ahead, inner // behind)
            if new.outer * found.count * new.size == after[axis]:
                return new
    raise _refuse(where, node)
