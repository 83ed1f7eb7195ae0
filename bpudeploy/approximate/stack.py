"""Merge two branches of equal structure, f(x) + g(x), with their channels or heads concatenated.

The first convolutions, which read the same tensor, have their rows stacked; the nodes after them process both halves;
the last convolutions have their columns stacked: [V_f V_g] [f; g] = V_f f + V_g g, with biases summed. Exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from bpudeploy.restructure.atoms import with_axis
from bpudeploy.restructure.edit import BINARY, ELEMENTWISE, emit, shape_constant, store
from bpudeploy.restructure.graph import POINTWISE_CONV, Graph, Node


class CannotStack(Exception):
    """The branches differ in structure; the message says where."""


@dataclass(frozen=True)
class StackedPair:
    """Two tensors concatenated as ``name`` along ``axis``; if ``axis`` is None, both are ``name`` itself.

    The axis is ``outer`` times [left, right] in memory order; ``outer`` is the images if the axis also counts those.
    """

    name: str
    axis: int | None
    outer: int = 1


def stack(graph: Graph, left: str, right: str) -> str:
    """Return a tensor equal to ``left`` + ``right``, computed by one branch.

    Raises:
        CannotStack: their structures differ; the graph's outputs are unchanged.
    """
    a, b = graph.nodes[left], graph.nodes[right]
    if not (_plain_conv(a) and _plain_conv(b)):
        raise CannotStack(f"{left} and {right} do not both end in a plain 1x1 convolution")
    x = _Stacker(graph).pair(a.inputs[0], b.inputs[0])
    (wa, ba), (wb, bb) = _parameters(graph, a), _parameters(graph, b)
    if x.axis == 1 and x.outer == 1:
        weight = np.concatenate([wa, wb], axis=1)
    elif x.axis is None:
        weight = wa + wb
    else:
        raise CannotStack(f"{left} and {right} end with their halves on axis {x.axis}")
    inputs = [x.name, store(graph, weight, f"{left}.stacked.weight")]
    if ba is not None or bb is not None:
        inputs.append(store(graph, _or_zeros(ba, wa) + _or_zeros(bb, wb), f"{left}.stacked.bias"))
    return emit(graph, "Conv", f"{left}.stacked", inputs, a.shape, **a.attributes)


class _Stacker:
    """Traverses two branches backwards; each pair of tensors is stacked once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._done: dict[tuple[str, str], StackedPair] = {}

    def pair(self, left: str, right: str) -> StackedPair:
        if (left, right) not in self._done:
            self._done[left, right] = StackedPair(left, None) if left == right else self._stack(left, right)
        return self._done[left, right]

    def _stack(self, left: str, right: str) -> StackedPair:
        a, b = self._graph.nodes.get(left), self._graph.nodes.get(right)
        if a is None or b is None or a.op != b.op or _attributes(a) != _attributes(b):
            raise CannotStack(f"{left} and {right} are computed differently")
        methods: dict[str, Callable[[Node, Node], StackedPair]] = {
            "Conv": self._conv,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
            "MatMul": self._matmul,
            "Softmax": self._along,
            "Slice": self._along,
        }
        method = self._elementwise if a.op in ELEMENTWISE else methods.get(a.op)
        if method is None:
            raise CannotStack(f"{a.op} ({left}) cannot be stacked")
        return method(a, b)

    def _emit(
        self, a: Node, b: Node, inputs: list[str], axis: int, outer: int = 1, **attributes: object
    ) -> StackedPair:
        shape = _joined(a.shape, b.shape, axis)
        name = emit(self._graph, a.op, f"{a.name}.stacked", inputs, shape, **(a.attributes | attributes))
        self._graph.nodes[name].keep_float = a.keep_float or b.keep_float
        return StackedPair(name, axis, outer)

    def _conv(self, a: Node, b: Node) -> StackedPair:
        x = self.pair(a.inputs[0], b.inputs[0])
        (wa, ba), (wb, bb) = _parameters(self._graph, a), _parameters(self._graph, b)
        groups = int(a.attributes.get("group", 1)), int(b.attributes.get("group", 1))
        if x.axis is not None and (x.axis, x.outer) != (1, 1):
            raise CannotStack(f"{a.name} reads its halves on axis {x.axis}")
        if x.axis is None and groups != (1, 1):
            raise CannotStack(f"{a.name} has groups")
        same_groups = x.axis is None or len(wa) * groups[1] == len(wb) * groups[0]
        if wa.shape[1:] != wb.shape[1:] or not same_groups:
            raise CannotStack(f"{a.name} and {b.name} have weights of different shape")
        inputs = [x.name, store(self._graph, np.concatenate([wa, wb]), f"{a.name}.stacked.weight")]
        if ba is not None or bb is not None:
            bias = np.concatenate([_or_zeros(ba, wa), _or_zeros(bb, wb)])
            inputs.append(store(self._graph, bias, f"{a.name}.stacked.bias"))
        return self._emit(a, b, inputs, 1, group=1 if x.axis is None else sum(groups))

    def _reshape(self, a: Node, b: Node) -> StackedPair:
        x = self._stacked(a, b)
        outer = prod(self._graph.shape(x.name)[: x.axis]) * x.outer
        for axis in range(4):
            left, right = a.shape[axis], b.shape[axis]
            times, rest = divmod(outer, prod(a.shape[:axis]))
            if rest == 0 and left % times == right % times == 0 and max(left, right) > times:
                shape = _joined(a.shape, b.shape, axis)
                return self._emit(a, b, [x.name, shape_constant(self._graph, shape)], axis, times)
        raise CannotStack(f"{a.name} mixes its halves with axis {x.axis}")

    def _transpose(self, a: Node, b: Node) -> StackedPair:
        x = self._stacked(a, b)
        return self._emit(a, b, [x.name], list(a.attributes["perm"]).index(x.axis), x.outer)

    def _matmul(self, a: Node, b: Node) -> StackedPair:
        x, y = (self.pair(a.inputs[i], b.inputs[i]) for i in (0, 1))
        if x.axis is None or (x.axis, x.outer) != (y.axis, y.outer) or x.axis > 1:
            raise CannotStack(f"{a.name} multiplies across its halves")
        return self._emit(a, b, [x.name, y.name], x.axis, x.outer)

    def _along(self, a: Node, b: Node) -> StackedPair:
        """Softmax and Slice, along another axis than that of the halves."""
        x, constants = self._stacked(a, b), self._graph.constants
        own = [constants[n] for n in a.inputs[1:]]
        axes = [int(own[2][0])] if a.op == "Slice" else range(int(a.attributes.get("axis", 1)), 4)
        if x.axis in axes or any((p != constants[n]).any() for p, n in zip(own, b.inputs[1:], strict=True)):
            raise CannotStack(f"{a.name} operates on the axis of its halves")
        assert x.axis is not None
        return self._emit(a, b, [x.name, *a.inputs[1:]], x.axis, x.outer)

    def _elementwise(self, a: Node, b: Node) -> StackedPair:
        """Elementwise operators; constants are concatenated like the tensors."""
        constants, tensors = self._graph.constants, self._graph.nodes.keys() | self._graph.inputs.keys()
        pairs = {i: self.pair(m, n) for i, (m, n) in enumerate(zip(a.inputs, b.inputs, strict=True)) if m in tensors}
        locations = {(p.axis, p.outer) for p in pairs.values() if p.axis is not None}
        if len(locations) != 1:
            raise CannotStack(f"{a.name} and {b.name} have their halves on different axes")
        ((axis, outer),) = locations
        assert axis is not None
        inputs = []
        for i, (m, n) in enumerate(zip(a.inputs, b.inputs, strict=True)):
            if i in pairs:
                if pairs[i].axis is None and self._graph.shape(m)[axis] > 1:
                    raise CannotStack(f"{a.name} mixes its halves with {m}, which both branches read")
                inputs.append(pairs[i].name)
            elif not m or (np.array_equal(constants[m], constants[n]) and _length(constants[m].shape, axis) == 1):
                inputs.append(m)
            elif a.op not in BINARY or outer != 1:
                raise CannotStack(f"{a.name} and {b.name} have different constants")
            else:
                halves = [_wide(constants[k], axis, node.shape[axis]) for k, node in ((m, a), (n, b))]
                inputs.append(store(self._graph, np.concatenate(halves, axis=axis), f"{m}.stacked"))
        return self._emit(a, b, inputs, axis, outer)

    def _stacked(self, a: Node, b: Node) -> StackedPair:
        x = self.pair(a.inputs[0], b.inputs[0])
        if x.axis is None:
            raise CannotStack(f"{a.name} and {b.name} process the same tensor differently")
        return x


def _plain_conv(node: Node) -> bool:
    given = {k: list(v) if isinstance(v, tuple | list) else v for k, v in node.attributes.items()}
    return node.op == "Conv" and all(given.get(k, v) == v for k, v in POINTWISE_CONV.items())


def _attributes(node: Node) -> dict[str, object]:
    return {k: list(v) if isinstance(v, tuple | list) else v for k, v in node.attributes.items() if k != "group"}


def _joined(left: tuple[int, ...], right: tuple[int, ...], axis: int) -> tuple[int, ...]:
    if with_axis(left, axis, 0) != with_axis(right, axis, 0):
        raise CannotStack(f"shapes {list(left)} and {list(right)}")
    return with_axis(left, axis, left[axis] + right[axis])


def _parameters(graph: Graph, node: Node) -> tuple[np.ndarray, np.ndarray | None]:
    if any(name not in graph.constants for name in node.inputs[1:]):
        raise CannotStack(f"{node.name} has computed weights")
    return graph.constants[node.inputs[1]], graph.constants[node.inputs[2]] if len(node.inputs) > 2 else None


def _or_zeros(bias: np.ndarray | None, weight: np.ndarray) -> np.ndarray:
    return np.zeros(len(weight), weight.dtype) if bias is None else bias


def _length(shape: tuple[int, ...], axis: int) -> int:
    """Return the length of one of four axes; missing leading axes have length 1."""
    at = axis - (4 - len(shape))
    return shape[at] if at >= 0 else 1


def _wide(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    full = array.reshape((1,) * (4 - array.ndim) + array.shape)
    return np.repeat(full, length, axis=axis) if full.shape[axis] == 1 else full
