"""Lay tokens in several rows, for an accelerator that computes several rows of pixels together.

Tokens lie in one row, (N, C, 1, T) with channels first or (N, 1, T, C) with channels last. If four rows are computed
together, three quarters of the work is padding. Here every operator that treats tokens alike gets them as (N, C, R, W)
or (N, R, W, C) with R W >= T. The first tokens are repeated to fill the last row; each copy has the values of its
original throughout, so no range of values changes. What mixes tokens (keys, values, pools, slices of tokens) reads the
T tokens in one row again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from bpudeploy.restructure.edit import ELEMENTWISE, emit, reshape, slice_axis, store, tidy
from bpudeploy.restructure.graph import POINTWISE_CONV, Graph, Node
from bpudeploy.spec.layout import LayoutFacts

_FIRST, _LAST = 1, 3
"""The axis of channels; tokens are on the axis 3 or 2, and the third axis has size 1."""
_TOKENS = {_FIRST: 3, _LAST: 2}
_TURNS = {(_FIRST, (0, 2, 3, 1)): _LAST, (_LAST, (0, 3, 1, 2)): _FIRST}
_FEW = 4
"""Fewer convolutions than this are not worth the moves."""
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"})
_MOVES = frozenset({"Slice", "Concat", "Transpose"})


@dataclass
class _Region:
    """Tensors of ``tokens`` tokens that are laid in ``rows`` x ``columns``, and where their channels are.

    ``entries`` are computed in one row, ``inside`` by nodes of the region.
    """

    tokens: int
    rows: int
    columns: int
    inside: dict[str, int] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)

    def channels(self, name: str) -> int | None:
        return self.inside.get(name, self.entries.get(name))


def lay_in_rows(graph: Graph, facts: LayoutFacts) -> int:
    """Lay the tokens of every stream in rows; return the number of operators that read them so."""
    total = 0
    for tokens, count in token_counts(graph).items():
        rows, columns = shape_of_rows(tokens, facts)
        few = count < _FEW and tokens not in facts.tuned
        if few or rows == 1 or facts.area(rows, columns) >= facts.area(1, tokens):
            continue
        region = _Region(tokens, rows, columns)
        _grow(graph, region)
        _apply(graph, region)
        total += len(region.inside)
    if total:
        tidy(graph)
    return total


def token_counts(graph: Graph) -> Counter[int]:
    """Return how many 1x1 convolutions compute each number of tokens in one row."""
    return Counter(n.shape[3] for n in graph.nodes.values() if _is_pointwise(n) and n.shape[2] == 1)


def shape_of_rows(tokens: int, facts: LayoutFacts) -> tuple[int, int]:
    """Return the rows and columns that occupy the fewest pixels, of these with the fewest repeated tokens.

    Those in ``facts.tuned`` are known to be best.
    """
    if tokens in facts.tuned:
        rows = min(facts.tuned[tokens], tokens)
        return rows, -(-tokens // rows)
    shapes = [(rows, -(-tokens // rows)) for rows in range(1, tokens + 1)]
    return min(shapes, key=lambda shape: (facts.area(*shape), shape[0] * shape[1], shape[0]))


def _is_pointwise(node: Node) -> bool:
    given = POINTWISE_CONV | node.attributes
    return node.op == "Conv" and all(given[name] == POINTWISE_CONV[name] for name in POINTWISE_CONV if name != "group")


def _grow(graph: Graph, region: _Region) -> None:
    """Fill the region around the 1x1 convolutions of its tokens."""
    outputs, changed = graph.output_names, True
    while changed:
        changed = False
        for node in graph.nodes.values():
            if node.name in region.inside or node.name in outputs:
                continue
            channels = _channels_after(graph, region, node)
            if channels is None:
                continue
            changed = True
            region.inside[node.name] = channels
            region.entries.pop(node.name, None)
            for name in _data(graph, node):
                if region.channels(name) is None and graph.shape(name)[_TOKENS[channels]] == region.tokens:
                    region.entries[name] = channels
    _drop_moves_out(graph, region)
    read = {name for node in graph.nodes.values() if node.name in region.inside for name in _rows_read(graph, node)}
    region.entries = {name: channels for name, channels in region.entries.items() if name in read}


def _data(graph: Graph, node: Node) -> list[str]:
    return [name for name in node.inputs if name and name not in graph.constants]


def _rows_read(graph: Graph, node: Node) -> list[str]:
    """Return the inputs that a node of a region reads in rows: all, but the first factor only of a product."""
    return _data(graph, node)[: 1 if node.op == "MatMul" else None]


def _channels_after(graph: Graph, region: _Region, node: Node) -> int | None:
    """Return the axis of channels of the node's output if the node treats the region's tokens alike, or None."""
    data = _data(graph, node)
    if not data:
        return None
    if _is_pointwise(node):
        shape = graph.shape(data[0])
        fits = shape[2:] == (1, region.tokens) and region.channels(data[0]) in (None, _FIRST)
        return _FIRST if fits else None
    known = {c for name in data if (c := region.channels(name)) is not None}
    if len(known) != 1:
        return None
    (channels,) = known
    if node.op == "Transpose":
        return _TURNS.get((channels, tuple(node.attributes["perm"])))
    if node.op == "MatMul":
        first, second = (graph.shape(name) for name in node.inputs)
        broadcast = first[1] == second[1] == 1 and node.inputs[0] not in graph.constants
        return _LAST if channels == _LAST == region.channels(node.inputs[0]) and broadcast else None
    return channels if _keeps(graph, node, channels) and _alike(graph, region, data, channels) else None


def _keeps(graph: Graph, node: Node, channels: int) -> bool:
    """Return whether an operator of one layout treats tokens alike."""
    attributes = node.attributes
    if node.op in ELEMENTWISE or node.op in ("Min", "Max"):
        return True
    if node.op in _REDUCTIONS:
        return list(attributes["axes"]) == [channels]
    if node.op in ("Softmax", "Concat"):
        return attributes.get("axis") in ((channels,) if node.op == "Softmax" else (0, channels))
    if node.op == "Slice" and len(node.inputs) > 3:
        return graph.constants[node.inputs[3]].tolist() in ([0], [channels])
    return False


def _alike(graph: Graph, region: _Region, data: list[str], channels: int) -> bool:
    """Return whether all tensors have the region's tokens on the same axis, or one value for all of them."""
    for name in data:
        shape, axis = graph.shape(name), _TOKENS[channels]
        if region.channels(name) is None and (shape[axis] not in (1, region.tokens) or shape[axis - 1] != 1):
            return False
    return True


def _drop_moves_out(graph: Graph, region: _Region) -> None:
    """Remove moves that nothing in the region reads: they are done in one row, after the tokens left the region."""
    readers = graph.readers()
    for node in reversed(list(graph.nodes.values())):
        if node.name not in region.inside or node.op not in _MOVES:
            continue
        inside = [r for r in readers.get(node.name, []) if r.name in region.inside]
        if not any(node.name in _rows_read(graph, r) for r in inside):
            del region.inside[node.name]


def _apply(graph: Graph, region: _Region) -> None:
    readers = graph.readers()
    members = [node for node in graph.nodes.values() if node.name in region.inside]
    entered = {name: _enter(graph, region, name) for name in region.entries}
    left: dict[str, str] = {}
    for node in members:
        channels = region.inside[node.name]
        in_rows = _rows_read(graph, node)
        for i, name in enumerate(node.inputs):
            if name in graph.constants and node.op in ELEMENTWISE:
                node.inputs[i] = _constant(graph, region, name, channels)
            elif name in entered and name in in_rows:
                node.inputs[i] = entered[name]
        if node.shape[_TOKENS[channels]] == region.tokens:
            node.shape = _in_rows(region, node.shape, channels)
    for node in members:
        outside = [r for r in readers.get(node.name, []) if node.name not in _read_inside(graph, region, r)]
        for reader in outside:
            source = left.get(node.name) or _leave(graph, region, node)
            left[node.name] = source
            reader.inputs = [source if name == node.name else name for name in reader.inputs]


def _read_inside(graph: Graph, region: _Region, reader: Node) -> list[str]:
    return _rows_read(graph, reader) if reader.name in region.inside else []


def _in_rows(region: _Region, shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    rows, columns = region.rows, region.columns
    return (*shape[:2], rows, columns) if channels == _FIRST else (shape[0], rows, columns, shape[3])


def _in_one_row(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    n, a, b, c = shape
    return (n, a, 1, b * c) if channels == _FIRST else (n, 1, a * b, c)


def _enter(graph: Graph, region: _Region, name: str) -> str:
    """Append the moves from one row to rows; return their result."""
    channels, tensor = region.entries[name], name
    axis, full = _TOKENS[channels], region.rows * region.columns
    shape = graph.shape(name)
    if full > region.tokens:
        copies = slice_axis(graph, name, axis, 0, full - region.tokens, f"{name}.tokens")
        filled = [full if i == axis else n for i, n in enumerate(shape)]
        tensor = emit(graph, "Concat", f"{name}.filled", [name, copies], filled, axis=axis)
    return reshape(graph, tensor, _in_rows(region, shape, channels), f"{name}.rows")


def _leave(graph: Graph, region: _Region, node: Node) -> str:
    """Append the moves of a node's output from rows to one row of the stream's tokens; return their result."""
    channels = region.inside[node.name]
    if node.shape[_TOKENS[channels] - 1] != region.rows:
        return node.name  # one value for all tokens
    tensor = reshape(graph, node.name, _in_one_row(node.shape, channels), f"{node.name}.row")
    if region.rows * region.columns == region.tokens:
        return tensor
    return slice_axis(graph, tensor, _TOKENS[channels], 0, region.tokens, f"{tensor}.tokens")


def _constant(graph: Graph, region: _Region, name: str, channels: int) -> str:
    """Return a constant operand in rows; one value for all tokens stays as it is."""
    array = graph.constants[name]
    axis = _TOKENS[channels]
    if array.ndim != 4 or array.shape[axis] != region.tokens:
        return name
    copies = array.take(range(region.rows * region.columns - region.tokens), axis=axis)
    full = np.concatenate([array, copies], axis=axis)
    return store(graph, full.reshape(_in_rows(region, full.shape, channels)), f"{name}.rows")
