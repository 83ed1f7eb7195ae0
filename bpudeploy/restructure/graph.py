"""A mutable 4-D network: nodes named after their only output, and constants."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bpudeploy.onnxmodel import readers_of
from bpudeploy.restructure.atoms import Dims

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOVE = "Move"
"""A change of layout; written as Reshapes and Transposes."""
UNARY = frozenset(
    {"Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign"}
    | {"Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Abs", "Sin", "Cos", "Floor", "Ceil", "Sign", "Round"}
)
"""Elementwise operators of one input."""
POINTWISE_CONV = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}


@dataclass
class Node:
    """One operator; its only output has the same name and the 4-D ``shape``.

    A Move has ``source`` and ``target`` layouts over its own atoms. ``keep_float`` marks the nodes inside a norm,
    where INT8 has too little range for squares.
    """

    op: str
    name: str
    inputs: list[str]
    shape: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    source: Dims | None = None
    target: Dims | None = None
    keep_float: bool = False

    @property
    def layouts(self) -> tuple[Dims, Dims]:
        """``source`` and ``target`` of a Move."""
        assert self.source is not None and self.target is not None
        return self.source, self.target


@dataclass(frozen=True)
class TensorView:
    """How a tensor of the original is read from the 4-D tensor ``name`` of shape ``physical``.

    Reshape to ``fine``, transpose by ``perm``, reshape to ``shape``.
    """

    name: str
    physical: tuple[int, ...]
    fine: tuple[int, ...]
    perm: tuple[int, ...]
    shape: tuple[int, ...]

    def read(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the 4-D ``array`` in the original's shape."""
        return array.reshape(self.fine).transpose(self.perm).reshape(self.shape)


@dataclass(frozen=True)
class Counterpart:
    """A tensor of the 4-D network, read by ``view``, that must equal ``original`` of the imported network.

    ``cuts`` are the slices (axis, start, stop) taken of it, in order.
    """

    original: str
    layer: str
    view: TensorView
    cuts: tuple[tuple[int, int, int], ...] = ()

    def expected(self, original: NDArray[Any]) -> NDArray[Any]:
        """Return the ``original`` tensor in the 4-D layout, sliced by ``cuts``."""
        view = self.view
        inverse = sorted(range(len(view.perm)), key=view.perm.__getitem__)
        array = original.reshape([view.fine[p] for p in view.perm]).transpose(inverse).reshape(view.physical)
        for axis, start, stop in self.cuts:
            array = array.take(range(start, stop), axis=axis)
        return array


class Graph:
    """Nodes in topological order, and constants of any dtype, by name."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: list[TensorView] = []
        self.counterparts: list[Counterpart] = []
        self.centred: set[str] = set()
        """Tensors from which the rule ``centre`` removed the mean over axis 1."""
        self._names: set[str] = set()

    def add(self, node: Node) -> str:
        """Append a node and return its name."""
        self.nodes[node.name] = node
        return node.name

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor or constant."""
        if name in self.nodes:
            return self.nodes[name].shape
        return self.inputs.get(name) or tuple(self.constants[name].shape)

    def unique_name(self, base: str) -> str:
        """Return ``base``, with a number appended if the name is or was in use."""
        name, n = base, 1
        while name in self._names or name in self.nodes or name in self.constants or name in self.inputs:
            n += 1
            name = f"{base}.{n}"
        self._names.add(name)
        return name

    def readers(self) -> dict[str, list[Node]]:
        """Return tensor to the nodes that read it; a node appears once per input that reads it."""
        return readers_of(self.nodes.values(), lambda node: node.inputs)

    @property
    def output_names(self) -> set[str]:
        """The names of the network's outputs."""
        return {output.name for output in self.outputs}

    @property
    def keep_float(self) -> tuple[str, ...]:
        """The names of the nodes that quantization keeps in float."""
        return tuple(node.name for node in self.nodes.values() if node.keep_float)

    def replace_uses(self, old: str, new: str) -> None:
        """Replace ``old`` by ``new`` in the inputs of all nodes."""
        for node in self.nodes.values():
            node.inputs = [new if name == old else name for name in node.inputs]

    def cut_counterpart(self, name: str, axis: int, start: int, stop: int) -> None:
        """Record that ``name`` is sliced to [``start``, ``stop``) on an axis."""
        self.counterparts = [
            replace(t, cuts=(*t.cuts, (axis, start, stop))) if t.view.name == name else t for t in self.counterparts
        ]

    def rename_counterpart(self, old: str, new: str) -> None:
        """Record that the counterpart of ``old`` is now ``new``."""
        self.counterparts = [
            replace(t, view=replace(t.view, name=new)) if t.view.name == old else t for t in self.counterparts
        ]

    def drop_counterparts(self, names: Collection[str]) -> None:
        """Record that the tensors ``names`` no longer equal one of the original."""
        self.counterparts = [c for c in self.counterparts if c.view.name not in names]

    def insert_before(self, name: str, nodes: Sequence[Node]) -> None:
        """Insert ``nodes`` before the node ``name``."""
        self._insert([*self.nodes].index(name), nodes)

    def insert_after(self, name: str, nodes: Sequence[Node]) -> None:
        """Insert ``nodes`` after the node ``name``, or at the beginning if it is an input."""
        self._insert([*self.nodes].index(name) + 1 if name in self.nodes else 0, nodes)

    def _insert(self, index: int, nodes: Sequence[Node]) -> None:
        ordered = [*self.nodes.values()]
        self.nodes = {n.name: n for n in (*ordered[:index], *nodes, *ordered[index:])}

    def chain(self, name: str, readers: Mapping[str, Sequence[Node]]) -> Iterator[Node]:
        """Yield the nodes that follow ``name`` while each tensor has exactly one reader and is not an output."""
        outputs = self.output_names
        while len(readers.get(name, ())) == 1 and name not in outputs:
            (node,) = readers[name]
            yield node
            name = node.name
