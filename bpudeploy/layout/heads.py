"""Put the heads of attention on axis 0, so that tokens stay pixels and channels stay channels.

The exact rewrite has q, k and v as (B, h, T, d) or (B, h, d, T), cut out of (B, h d, H, W) by Reshapes and Transposes
that an accelerator with channels last must carry out value by value. Here each head is a slice of the channels and the
slices are joined on axis 0, (h B, d, H, W): moves of whole pixels. The products are

    S = (h B, H, W, d) x (h B, 1, d, T),  E = exp(S - max S),  O = (E x (h B, 1, T, d)) / sum E

with the queries as pixels and one matrix of keys for all their rows, and O goes back the same way. The softmax is
written out, with keys as channels and the sum as a 1x1 convolution: the division is one for each query and channel,
not for each query and key, and E, whose largest value is 1 in every row, uses int8 better than softmax(S) does.

Scores of many keys do not fit on the chip for all heads, and a compiler may refuse a long axis 0: these are computed
one head after another, on slices that are joined at the end.

Where the accelerator needs a multiple of keys, the first keys are repeated: no maximum changes. Their values are 0, and
they do not count in the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bpudeploy.layout.moves import indices, numbered
from bpudeploy.restructure.edit import BINARY, emit, reshape, slice_axis, store, tidy, transpose
from bpudeploy.restructure.graph import POINTWISE_CONV, Graph, Node
from bpudeploy.spec.layout import LayoutFacts

_TO_PIXELS = [0, 2, 3, 1]
_TO_CHANNELS = [0, 3, 1, 2]


@dataclass(frozen=True)
class _Origin:
    """A tensor (B, h d, H, W) whose pixels are the tokens in order, H W = T."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class _Attention:
    """The nodes from Q K' to the softmax, and the name of P V, of d ``channels``.

    ``inputs``: where q, k and v come from; ``output``: the same form of P V.
    """

    scores: Node
    between: tuple[Node, ...]
    product: str
    channels: int
    inputs: tuple[_Origin, _Origin, _Origin]
    output: _Origin


def stack_heads(graph: Graph, facts: LayoutFacts) -> int:
    """Rewrite every attention that has the form of the exact rewrite; return how many."""
    count = 0
    for node in list(graph.nodes.values()):
        found = _find(graph, node) if node.op == "Softmax" else None
        keys = found.scores.shape[3] if found is not None else 0
        added = -keys % facts.keys
        if found is not None and added <= keys and facts.tuned.get(keys) != 1:
            _rewrite(graph, found, added, apart=_exceeds(keys, facts.heads_together) or _stacks_too_many(found, facts))
            count += 1
    if count:
        _slice_channels(graph)
        tidy(graph)
    return count


def _stacks_too_many(found: _Attention, facts: LayoutFacts) -> bool:
    windows, heads, *_ = found.scores.shape
    return windows > 1 and _exceeds(windows * heads, facts.most_stacked)


def _exceeds(count: int, limit: int | None) -> bool:
    return limit is not None and count > limit


def _find(graph: Graph, softmax: Node) -> _Attention | None:
    if softmax.attributes.get("axis") != 3:
        return None
    readers, before = graph.readers(), [softmax]
    while before[0].op != "MatMul":
        tensors = [name for name in before[0].inputs if name not in graph.constants]
        node = graph.nodes.get(tensors[0]) if len(tensors) == 1 else None
        alone = node is not None and len(readers[node.name]) == 1 and node.name not in graph.output_names
        if node is None or not alone or (node.op not in BINARY and node.op != "MatMul"):
            return None
        before.insert(0, node)
    scores, after = before[0], list(islice(graph.chain(softmax.name, readers), 2))
    turned = bool(after) and after[0].op in ("Reshape", "Transpose") and _turns(graph, after[0], softmax.shape)
    product = after[-1] if turned else after[0] if after else softmax
    side = 1 if turned else 0  # O' = V' P' where that moves fewer values
    if product.op != "MatMul" or product.inputs[side] != (after[0].name if turned else softmax.name):
        return None
    if any(node.shape != scores.shape for node in before):
        return None
    b, h, tokens, keys = scores.shape
    d, channels = graph.shape(scores.inputs[0])[3], product.shape[2 if turned else 3]
    whole = (b, h, channels, keys) if turned else (b, h, keys, channels)
    q = _origin(graph, scores.inputs[0], (b, h, tokens, d), (0, 1, 3, 2))
    k = _origin(graph, scores.inputs[1], (b, h, d, keys), (0, 1, 2, 3))
    v = _origin(graph, product.inputs[1 - side], whole, (0, 1, 2, 3) if turned else (0, 1, 3, 2))
    output = _end(graph, product, readers, (0, 1, 2, 3) if turned else (0, 1, 3, 2))
    if q is None or k is None or v is None or output is None:
        return None
    return _Attention(scores, tuple(before[1:]), product.name, channels, (q, k, v), output)


def _origin(graph: Graph, tensor: str, shape: Sequence[int], perm: Sequence[int]) -> _Origin | None:
    """Return where ``tensor`` of ``shape`` comes from, by moves only; ``perm`` makes it (B, h, d, T).

    Of several tensors, the first of the network: later ones may have all their pixels in one column.
    """
    fine = [shape[p] for p in perm]
    expected = numbered(fine).transpose(np.argsort(perm))
    name, found = tensor, None
    while (node := graph.nodes.get(name)) is not None and node.op in ("Reshape", "Transpose"):
        name = node.inputs[0]
        given = graph.shape(name)
        if _holds(given, fine) and np.array_equal(indices(graph, tensor, name), expected):
            found = _Origin(name, *given[2:])
    return found


def _holds(shape: tuple[int, ...], fine: Sequence[int]) -> bool:
    """Return whether ``shape`` is (B, h d, H, W) of (B, h, d, T)."""
    return shape[:2] == (fine[0], fine[1] * fine[2]) and shape[2] * shape[3] == fine[3]


def _end(graph: Graph, product: Node, readers: dict[str, list[Node]], perm: Sequence[int]) -> _Origin | None:
    """Return the view (B, h d, H, W) of P V that everything else reads, or None; ``perm`` makes it (B, h, d, T).

    With the heads on axis 0 already, B of them, it may be (1, B d, H, W). Of several views, the last.
    """
    fine = [product.shape[p] for p in perm]
    expected, found = numbered(product.shape).transpose(perm), None
    for node in graph.chain(product.name, readers):
        if node.op not in ("Reshape", "Transpose"):
            break
        apart = fine[1] == 1 and node.shape[:2] == (1, fine[0] * fine[2]) and node.shape[2] * node.shape[3] == fine[3]
        fits = _holds(node.shape, fine) or apart
        if fits and np.array_equal(indices(graph, node.name, product.name), expected.reshape(node.shape)):
            found = _Origin(node.name, *node.shape[2:])
    return found


def _turns(graph: Graph, node: Node, shape: tuple[int, ...]) -> bool:
    """Return whether a move swaps the last two axes of a tensor of ``shape``."""
    return np.array_equal(indices(graph, node.name, node.inputs[0]), numbered(shape).swapaxes(2, 3))


def _rewrite(graph: Graph, found: _Attention, added: int, *, apart: bool) -> None:
    """Rewrite an attention, with ``added`` more keys; ``apart``: one head at a time."""
    heads, query = found.scores.shape[1], found.inputs[0].name
    k, v = (_in_a_row(graph, other) for other in found.inputs[1:])
    if added:
        k, v = _repeat_first(graph, k, added), _append_zeros(graph, v, added)
    if apart:
        each = zip(*(_slices(graph, tensor, 1, heads) for tensor in (query, k, v)), strict=True)
        products = [_attend(graph, found, one, added, i) for i, one in enumerate(each)]
        shape = list(graph.shape(products[0]))
        shape[1] *= heads
        joined = emit(graph, "Concat", f"{found.product}.joined", products, shape, axis=1)
    else:
        together = [_split(graph, tensor, heads) for tensor in (query, k, v)]
        joined = _join(graph, _attend(graph, found, together, added), heads)
    end = graph.shape(found.output.name)
    if graph.shape(joined) != end:
        joined = reshape(graph, joined, end, f"{joined}.shaped")
    graph.replace_uses(found.output.name, joined)


def _attend(graph: Graph, found: _Attention, inputs: Sequence[str], added: int, head: int | None = None) -> str:
    """Return the attention of q (n, d, H, W), k and v (n, d, 1, T), as (n, d, H, W), n = h B; of one ``head``, B."""
    q, k, v = inputs
    n, _, *pixels = graph.shape(q)
    keys = graph.shape(k)[3]
    left, right, values = (
        _transposed(graph, tensor, perm) for tensor, perm in ((q, _TO_PIXELS), (k, [0, 2, 1, 3]), (v, _TO_PIXELS))
    )
    scores = emit(graph, "MatMul", found.scores.name, [left, right], (n, *pixels, keys))
    names = {found.scores.name: _transposed(graph, scores, _TO_CHANNELS)}
    for node in found.between[:-1]:
        operands = [
            names[name] if name in names else _constant(graph, name, found, added, head) for name in node.inputs
        ]
        names[node.name] = emit(graph, node.op, node.name, operands, (n, keys, *pixels), **node.attributes)
        graph.nodes[names[node.name]].keep_float = node.keep_float
    return _weighted(graph, found, names[found.between[-1].inputs[0]], values)


def _weighted(graph: Graph, found: _Attention, scores: str, values: str) -> str:
    """Return softmax(S) V as (h B, d, H, W), from S as (h B, T, H, W): (exp(S - max S) V) / sum exp(S - max S)."""
    name, (n, keys, *pixels) = found.between[-1].name, graph.shape(scores)
    largest = emit(graph, "ReduceMax", f"{name}.max", [scores], (n, 1, *pixels), axes=[1], keepdims=1)
    shifted = emit(graph, "Sub", f"{name}.shifted", [scores, largest], (n, keys, *pixels))
    weights = emit(graph, "Exp", f"{name}.exp", [shifted], (n, keys, *pixels))
    real = np.arange(keys) < found.scores.shape[3]
    ones = store(graph, real.astype(np.float32).reshape(1, keys, 1, 1), f"{name}.ones")
    total = emit(graph, "Conv", f"{name}.sum", [weights, ones], (n, 1, *pixels), **POINTWISE_CONV)
    inverse = emit(graph, "Reciprocal", f"{name}.inverse", [total], (n, 1, *pixels))
    shape = (n, *pixels, found.channels)
    product = emit(graph, "MatMul", found.product, [_transposed(graph, weights, _TO_PIXELS), values], shape)
    turned = _transposed(graph, product, _TO_CHANNELS)
    return emit(graph, "Mul", f"{name}.weighted", [turned, inverse], graph.shape(turned))


def _in_a_row(graph: Graph, origin: _Origin) -> str:
    """Return the tokens as (B, h d, 1, T)."""
    n, channels, height, width = graph.shape(origin.name)
    if height == 1:
        return origin.name
    return reshape(graph, origin.name, (n, channels, 1, height * width), f"{origin.name}.row")


def _repeat_first(graph: Graph, row: str, count: int) -> str:
    """Return a row of tokens with the first ones again at its end: keys that change no maximum."""
    n, channels, _, tokens = graph.shape(row)
    first = slice_axis(graph, row, 3, 0, count, f"{row}.first")
    return emit(graph, "Concat", f"{row}.repeated", [row, first], (n, channels, 1, tokens + count), axis=3)


def _append_zeros(graph: Graph, row: str, count: int) -> str:
    """Return a row of tokens with zeros at its end: values that add nothing."""
    n, channels, _, tokens = graph.shape(row)
    zeros = store(graph, np.zeros((n, channels, 1, count), np.float32), f"{row}.zeros")
    return emit(graph, "Concat", f"{row}.filled", [row, zeros], (n, channels, 1, tokens + count), axis=3)


def _slice_channels(graph: Graph) -> None:
    """Replace each Reshape (1, h d, H, W) -> (h, d, H, W), and back, by slices that are joined: moves of pixels."""
    for node in list(graph.nodes.values()):
        if node.op != "Reshape" or node.name in graph.output_names:
            continue
        before, after = graph.shape(node.inputs[0]), node.shape
        if before[2:] != after[2:] or 1 not in (before[0], after[0]) or before[0] == after[0]:
            continue
        split = before[0] == 1
        graph.replace_uses(node.name, (_split if split else _join)(graph, node.inputs[0], max(before[0], after[0])))


def _split(graph: Graph, tensor: str, heads: int) -> str:
    """Return (B, h d, H, W) as (h B, d, H, W)."""
    return _regrouped(graph, tensor, heads, 1, 0, "heads")


def _join(graph: Graph, tensor: str, heads: int) -> str:
    """Return (h B, d, H, W) as (B, h d, H, W)."""
    return _regrouped(graph, tensor, heads, 0, 1, "joined")


def _regrouped(graph: Graph, tensor: str, heads: int, source: int, target: int, suffix: str) -> str:
    """Cut a tensor into ``heads`` slices of the axis ``source``, and join them on the axis ``target``."""
    if heads == 1:
        return tensor
    shape = list(graph.shape(tensor))
    shape[source], shape[target] = shape[source] // heads, heads * shape[target]
    parts = _slices(graph, tensor, source, heads)
    return emit(graph, "Concat", f"{tensor}.{suffix}", parts, shape, axis=target)


def _slices(graph: Graph, tensor: str, axis: int, count: int) -> list[str]:
    """Cut a tensor into ``count`` slices of an axis."""
    size = graph.shape(tensor)[axis] // count
    return [slice_axis(graph, tensor, axis, i * size, (i + 1) * size, f"{tensor}.slice") for i in range(count)]


def _transposed(graph: Graph, tensor: str, perm: list[int]) -> str:
    return transpose(graph, tensor, perm, f"{tensor}.turned")


def _constant(graph: Graph, name: str, found: _Attention, added: int, head: int | None) -> str:
    """Return a constant operand of the (B, h, T, T) scores for (h B, T + added, H, W), keys first; of one ``head``, h
    is 1.
    """
    array, (b, heads, *_), query = graph.constants[name], found.scores.shape, found.inputs[0]
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    *_, tokens, keys = array.shape
    if keys > 1:
        array, keys = np.concatenate([array, array[..., :added]], axis=3), keys + added
    if head is not None:
        array, heads = array[:, head : head + 1] if array.shape[1] > 1 else array, 1
    if array.shape[:2] != (1, 1):
        array = np.broadcast_to(array, (b, heads, tokens, keys)).swapaxes(0, 1)
    array = array.reshape(-1, tokens, keys).transpose(0, 2, 1)
    shape = (len(array), keys, *((query.height, query.width) if tokens > 1 else (1, 1)))
    return store(graph, np.ascontiguousarray(array).reshape(shape), f"{name}.heads")
