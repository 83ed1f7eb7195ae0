"""The 4-D network while it is being made: nodes by the name of their one output, and constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bpudeploy.restructure.atoms import Dims

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOVE = "Move"
"""A change of layout; it becomes Reshapes and Transposes when the graph is written."""

UNARY = frozenset(
    [
        "Relu",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Abs",
        "Elu",
        "Selu",
        "LeakyRelu",
        "HardSigmoid",
        "Softplus",
        "Softsign",
        "Sin",
        "Cos",
        "Floor",
        "Ceil",
        "Sign",
        "ThresholdedRelu",
        "Round",
    ]
)
"""Operators of one input that act on each element alone."""


@dataclass
class Node:
    """One operator. Its output has its name; ``shape`` is that output's, always of four numbers.

    A Move has ``source`` and ``target``, over atoms of its own. ``keep_float`` marks what stands inside a
    norm, where INT8 has too little range for a square.
    """

    op: str
    name: str
    inputs: list[str]
    shape: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    source: Dims | None = None
    target: Dims | None = None
    keep_float: bool = False


@dataclass(frozen=True)
class Output:
    """How an output of the original is read from ours, which is ``physical``: as ``fine``, transposed, as ``shape``."""

    name: str
    physical: tuple[int, ...]
    fine: tuple[int, ...]
    perm: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def back(self) -> tuple[int, ...]:
        """The permutation that undoes ``perm``."""
        return tuple(sorted(range(len(self.perm)), key=self.perm.__getitem__))

    def read(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return our 4-D tensor as the original would give it."""
        return array.reshape(self.fine).transpose(self.perm).reshape(self.shape)


@dataclass(frozen=True)
class Twin:
    """A tensor of ours that must equal ``original`` of the imported network, read by ``output``.

    ``cuts`` are the parts (axis, start, stop) that are left of it, one after the other.
    """

    original: str
    layer: str
    output: Output
    cuts: tuple[tuple[int, int, int], ...] = ()

    def placed(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the original's tensor laid out and cut as ours is."""
        full = array.reshape([self.output.fine[p] for p in self.output.perm]).transpose(self.output.back)
        laid = full.reshape(self.output.physical)
        for axis, start, stop in self.cuts:
            laid = laid.take(range(start, stop), axis=axis)
        return laid


class Graph:
    """Nodes in an order in which each comes after what it reads; constants by name, any dtype."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: list[Output] = []
        self.twins: list[Twin] = []
        self.centred: set[str] = set()
        """Tensors from which a rule took their mean over axis 1."""
        self._given: set[str] = set()

    def add(self, node: Node) -> str:
        """Append a node and return its name."""
        self.nodes[node.name] = node
        return node.name

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor or a constant."""
        if name in self.nodes:
            return self.nodes[name].shape
        return self.inputs.get(name) or tuple(self.constants[name].shape)

    def fresh(self, base: str) -> str:
        """Return ``base``, with a number behind it where that name was given before."""
        name, n = base, 1
        while name in self._given or name in self.nodes or name in self.constants or name in self.inputs:
            n += 1
            name = f"{base}.{n}"
        self._given.add(name)
        return name

    def readers(self) -> dict[str, list[Node]]:
        """Return tensor to the nodes that read it, once for each place where they do."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    @property
    def output_names(self) -> set[str]:
        """The tensors that the network gives."""
        return {output.name for output in self.outputs}

    def rename_reads(self, old: str, new: str) -> None:
        """Make everybody who reads ``old`` read ``new``."""
        for node in self.nodes.values():
            node.inputs = [new if name == old else name for name in node.inputs]

    def cut_twin(self, name: str, axis: int, start: int, stop: int) -> None:
        """Say that only [``start``, ``stop``) of an axis is left of ``name``."""
        self.twins = [
            replace(t, cuts=(*t.cuts, (axis, start, stop))) if t.output.name == name else t for t in self.twins
        ]

    def rename_twin(self, old: str, new: str) -> None:
        """Say that the original's tensor that ``old`` was equal to is now equal to ``new``."""
        self.twins = [replace(t, output=replace(t.output, name=new)) if t.output.name == old else t for t in self.twins]

    def insert_before(self, name: str, nodes: Sequence[Node]) -> None:
        """Put ``nodes`` before the node ``name``."""
        self._insert(name, nodes, 0)

    def insert_after(self, name: str, nodes: Sequence[Node]) -> None:
        """Put ``nodes`` after the node ``name``, or first of all where it is an input."""
        if name in self.nodes:
            self._insert(name, nodes, 1)
        else:
            self.nodes = {**{n.name: n for n in nodes}, **self.nodes}

    def _insert(self, name: str, nodes: Sequence[Node], offset: int) -> None:
        ordered = [*self.nodes.values()]
        at = [*self.nodes].index(name) + offset
        self.nodes = {n.name: n for n in (*ordered[:at], *nodes, *ordered[at:])}

    def chain(self, name: str, readers: Mapping[str, Sequence[Node]]) -> Iterator[Node]:
        """Yield the nodes that follow ``name`` as long as each tensor has exactly one reader and is no output."""
        outputs = self.output_names
        while len(readers.get(name, ())) == 1 and name not in outputs:
            (node,) = readers[name]
            yield node
            name = node.name
