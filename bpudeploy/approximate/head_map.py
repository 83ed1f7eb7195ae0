"""Locate the heads of an attention in every tensor from the convolutions of q, k, v to the projection.

An axis that contains heads is (outer, heads, size) in memory order. It is traced from the softmax in both directions
through reshapes, transposes and products, to the convolutions that lose rows (q, k, v) or columns (projection).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from bpudeploy.errors import StageError
from bpudeploy.restructure.atoms import with_axis
from bpudeploy.restructure.edit import ELEMENTWISE, shape_constant, store
from bpudeploy.restructure.graph import Graph, Node

_PER_HEAD = ELEMENTWISE | {"Softmax"}


@dataclass(frozen=True)
class HeadAxis:
    """The physical axis ``axis`` is (``outer``, heads, ``size``) in memory order."""

    axis: int
    outer: int
    size: int


@dataclass
class HeadMap:
    """``tensors`` contain the heads, from the convolutions that produce them (``rows``) to ``projections``.

    ``constants`` are (reader, input index) of constants with an entry per head.
    """

    count: int
    tensors: dict[str, HeadAxis] = field(default_factory=dict)
    rows: dict[str, HeadAxis] = field(default_factory=dict)
    projections: list[tuple[str, HeadAxis]] = field(default_factory=list)
    constants: list[tuple[str, int]] = field(default_factory=list)

    @property
    def columns(self) -> NDArray[np.int64]:
        """The input channels of the projection that belong to each head, (heads, channels)."""
        return self._indices(self.projections[0][1]).transpose(1, 0, 2).reshape(self.count, -1)

    @property
    def size(self) -> int:
        """The number of input channels of the projection per head."""
        return int(self.columns.shape[1])

    def keep(self, head_axis: HeadAxis, removed: Collection[int]) -> NDArray[np.int64]:
        """Return the indices along ``head_axis`` without the heads ``removed``."""
        return self._indices(head_axis)[:, [h for h in range(self.count) if h not in removed]].reshape(-1)

    def _indices(self, head_axis: HeadAxis) -> NDArray[np.int64]:
        outer, size = head_axis.outer, head_axis.size
        return np.arange(outer * self.count * size).reshape(outer, self.count, size)


def map_heads(graph: Graph, softmax: str, inside: Collection[str], block: str) -> HeadMap:
    """Return the location of the heads of this softmax: axis 1, before or after windows if there are any.

    The largest number of heads that can be traced is correct, as windows never become channels.

    Args:
        inside: the nodes of the branch.

    Raises:
        StageError: an operator mixes the heads.
    """
    axis = graph.shape(softmax)[1]
    errors = []
    for windows in (w for w in range(1, axis // 2 + 1) if axis % w == 0):
        for head_axis in (HeadAxis(1, 1, windows), HeadAxis(1, windows, 1))[: 1 if windows == 1 else 2]:
            try:
                return _trace(graph, softmax, HeadMap(axis // windows), head_axis, inside, block)
            except StageError as error:
                errors.append(error)
    raise errors[0]


def _trace(graph: Graph, softmax: str, found: HeadMap, start: HeadAxis, inside: Collection[str], block: str) -> HeadMap:
    todo = [(softmax, start)]
    readers = graph.readers()
    while todo:
        name, head_axis = todo.pop()
        if name in found.tensors:
            if found.tensors[name] != head_axis:
                raise _unsupported(block, graph.nodes[name])
            continue
        if name not in inside:
            raise _unsupported(block, graph.nodes.get(name, graph.nodes[softmax]))
        found.tensors[name] = head_axis
        for node in (graph.nodes[name], *readers.get(name, ())):
            todo += _beyond(graph, found, node, name, head_axis, block)
    return found


def remove_heads(graph: Graph, heads: HeadMap, removed: Sequence[int]) -> None:
    """Remove the heads ``removed`` from every tensor, weight and constant."""
    for name, head_axis in heads.tensors.items():
        node = graph.nodes[name]
        node.shape = with_axis(node.shape, head_axis.axis, len(heads.keep(head_axis, removed)))
        if node.op == "Reshape":
            node.inputs[1] = shape_constant(graph, node.shape)
    for name, head_axis in heads.rows.items():
        node, kept = graph.nodes[name], heads.keep(head_axis, removed)
        for i in range(1, len(node.inputs)):
            node.inputs[i] = store(graph, graph.constants[node.inputs[i]][kept], f"{node.inputs[i]}.pruned")
    for name, head_axis in heads.projections:
        node, kept = graph.nodes[name], heads.keep(head_axis, removed)
        node.inputs[1] = store(graph, graph.constants[node.inputs[1]][:, kept], f"{node.inputs[1]}.pruned")
    for name, i in heads.constants:
        node, head_axis = graph.nodes[name], heads.tensors[name]
        array = graph.constants[node.inputs[i]].take(heads.keep(head_axis, removed), axis=head_axis.axis)
        node.inputs[i] = store(graph, array, f"{node.inputs[i]}.pruned")


def _unsupported(block: str, node: Node) -> StageError:
    return StageError(
        f"{block}: its heads cannot be traced through {node.op} ({node.name})",
        hint="prune_heads supports only plain softmax attention with several heads: use drop_blocks here",
    )


def _beyond(
    graph: Graph, found: HeadMap, node: Node, name: str, head_axis: HeadAxis, block: str
) -> list[tuple[str, HeadAxis]]:
    """Return the location of the heads across ``node``, given that in ``name``: its output, or one of its inputs."""
    forward = name != node.name
    other = node.name if forward else node.inputs[0]
    if node.op == "Conv":
        plain = head_axis.axis == 1 and int(node.attributes.get("group", 1)) == 1
        if not plain or (forward and name != node.inputs[0]):
            raise _unsupported(block, node)
        if forward:
            found.projections.append((node.name, head_axis))
        else:
            found.rows[node.name] = head_axis
        return []
    if node.op == "Reshape":
        return [(other, _reshaped(found, head_axis, graph.shape(name), graph.shape(other), block, node))]
    if node.op == "Transpose":
        perm = list(node.attributes["perm"])
        axis = perm.index(head_axis.axis) if forward else perm[head_axis.axis]
        return [(other, replace(head_axis, axis=axis))]
    product = node.op == "MatMul" and head_axis.axis < 2
    if forward and (node.op in _PER_HEAD or node.op == "Slice" or product):
        return [(other, head_axis)]
    if node.op == "Slice" and int(graph.constants[node.inputs[3]][0]) != head_axis.axis:
        return [(other, head_axis)]
    if product:
        return [(name, head_axis) for name in node.inputs]
    if node.op not in _PER_HEAD or (node.op == "Softmax" and head_axis.axis == 3):
        raise _unsupported(block, node)
    sources = []
    for i, name in enumerate(node.inputs):
        shape = (1,) * (4 - len(graph.shape(name))) + graph.shape(name)
        if shape[head_axis.axis] == 1:
            continue
        if name in graph.constants:
            found.constants.append((node.name, i))
        else:
            sources.append((name, head_axis))
    return sources


def _reshaped(
    found: HeadMap, head_axis: HeadAxis, before: Sequence[int], after: Sequence[int], block: str, node: Node
) -> HeadAxis:
    """Return the location after a reshape, which keeps what precedes the heads in memory before them."""
    outer = prod(before[: head_axis.axis]) * head_axis.outer
    inner = head_axis.size * prod(before[head_axis.axis + 1 :])
    for axis in range(4):
        ahead, behind = prod(after[:axis]), prod(after[axis + 1 :])
        if after[axis] > 1 and outer % ahead == 0 and inner % behind == 0:
            new = HeadAxis(axis, outer // ahead, inner // behind)
            if new.outer * found.count * new.size == after[axis]:
                return new
    raise _unsupported(block, node)
