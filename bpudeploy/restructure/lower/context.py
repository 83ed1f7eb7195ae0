"""The lowering context: the value of each original tensor, and methods to append nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.errors import StageError
from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, matched, refinement, size, sizes, with_axis
from bpudeploy.restructure.graph import MOVE, Counterpart, Graph, Node, TensorView
from bpudeploy.restructure.moves import move_array
from bpudeploy.restructure.network import Network, Operation
from bpudeploy.restructure.value import Convolution, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

SELECTS = frozenset({"Split", "Slice", "Gather"})
_SMALL = 1 << 16


class Lowering:
    """Builds the 4-D graph of one network; ``node`` is the operation being lowered."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = Graph()
        self.values: dict[str, Value] = {}
        self.constants: dict[str, NDArray[Any]] = dict(network.constants)
        self.node: Operation = network.operations[0]
        self._stored: dict[str, str] = {}

    # inputs and outputs of the operation

    def input(self, index: int) -> Value | NDArray[Any]:
        """Return an input of the operation: a value or a constant."""
        name = self.node.inputs[index]
        return self.constants[name] if name in self.constants else self.values[name]

    def value(self, index: int = 0) -> Value:
        """Return an input that must not be a constant."""
        found = self.input(index)
        if isinstance(found, Value):
            return found
        raise self.unsupported(f"input {index} is not computed from the image")

    def constant(self, index: int) -> NDArray[Any]:
        """Return an input that must be a constant."""
        found = self.input(index)
        if isinstance(found, Value):
            raise self.unsupported(
                f"its input {index} depends on the image",
                "a BPU runs one static network: export the model with a fixed number of tokens and blocks; static "
                "alternatives are restructure.approximate.drop_blocks and reduce_tokens",
            )
        return found

    def optional(self, index: int) -> NDArray[Any] | None:
        """Return an input that must be a constant, or None if omitted."""
        return self.constant(index) if any(self.node.inputs[index : index + 1]) else None

    def numbers(self, attribute: str, index: int) -> list[int]:
        """Return integers that are an input in newer opsets and an attribute in older ones."""
        given = self.optional(index)
        return [int(n) for n in (self.node.attributes.get(attribute, ()) if given is None else given.reshape(-1))]

    def bind(self, value: Value, index: int = 0) -> None:
        """Set the value of an output of the operation."""
        name = self.node.outputs[index]
        if value.producer is not None and not self._may_change(name):
            value = replace(value, producer=None)
        self.values[name] = value
        if value.pending is None and frozenset(flat(value.axes)) == value.stored and value.name in self.graph.nodes:
            self.graph.counterparts.append(Counterpart(name, self.node.path, tensor_view(value)))

    def unsupported(self, reason: str, hint: str = "") -> StageError:
        """Return the error for an operation that cannot be lowered."""
        return StageError(
            f"{self.node.path}: {self.node.op} has no 4-D form here: {reason}",
            hint=hint or "change the model there, or report its name",
        )

    def _may_change(self, tensor: str) -> bool:
        readers = self.network.readers.get(tensor, ())
        alone = len(readers) == 1 or all(r.op in SELECTS and r.inputs[0] == tensor for r in readers)
        return alone and tensor not in self.network.outputs

    # new nodes

    def name(self, suffix: str = "") -> str:
        """Return an unused name that starts with the operation's path."""
        return self.graph.unique_name(f"{self.node.path}.{suffix}" if suffix else self.node.path)

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        suffix: str | None = None,
        *,
        keep_float: bool = False,
        **attributes: Any,
    ) -> str:
        """Append a node, whose name ends with ``suffix`` or else the operator, and return its name."""
        name = self.name(op.lower() if suffix is None else suffix)
        return self.graph.add(Node(op, name, list(inputs), tuple(shape), attributes, keep_float=keep_float))

    def store(self, array: NDArray[Any], suffix: str, *, shared: bool = False) -> str:
        """Store a constant, floats as float32; deduplicate it if small or ``shared``.

        Tables are ``shared`` (every layer has the same rotary embedding); weights are not worth hashing.
        """
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        key = ""
        if shared or array.nbytes <= _SMALL:
            array = np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis, which Clip refuses
            key = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
            if key in self._stored:
                return self._stored[key]
        name = self.name(suffix)
        self.graph.constants[name] = array
        if key:
            self._stored[key] = name
        return name

    def scalar(self, number: float) -> str:
        """Store a number as a 4-D constant."""
        return self.store(np.full((1, 1, 1, 1), number, np.float32), "number")

    def vector(self, numbers: Sequence[int]) -> str:
        """Store integers, such as a shape or a slice's bounds."""
        return self.store(np.array(numbers, np.int64), "index")

    def convolve(self, conv: Convolution, shape: Sequence[int], suffix: str = "", *, keep_float: bool = False) -> str:
        """Append a convolution and return its name."""
        inputs = [conv.source, self.store(conv.weight, f"{suffix}.weight" if suffix else "weight")]
        if conv.bias.any():
            inputs.append(self.store(conv.bias, f"{suffix}.bias" if suffix else "bias"))
        attributes = asdict(conv.window) | {"group": conv.group}
        return self.emit("Conv", inputs, shape, suffix, keep_float=keep_float, **attributes)

    # layouts of values

    def relayout(self, value: Value, target: Dims) -> Value:
        """Return ``value`` in the physical layout ``target`` of the same stored atoms."""
        if value.dims == target:
            return value
        shape = tuple(sizes(target))
        name = self.name("move")
        self.graph.add(Node(MOVE, name, [value.name], shape, source=value.dims, target=target))
        return value.stored_as(name, target)

    def apply_pending(self, value: Value) -> Value:
        """Return ``value`` with its pending affine computed."""
        if value.pending is None:
            return value
        pending, name, shape = value.pending, value.name, sizes(value.dims)
        if (pending.scale != 1).any():
            scale = self.store(broadcastable(pending.scale, pending.atoms, value.dims), "scale")
            name = self.emit("Mul", [name, scale], shape, "scaled")
        if pending.shift.any():
            shift = self.store(broadcastable(pending.shift, pending.atoms, value.dims), "shift")
            name = self.emit("Add", [name, shift], shape, "shifted")
        return replace(value, name=name, producer=None, pending=None)

    def materialize(self, value: Value) -> Value:
        """Return ``value`` with its pending affine applied and every broadcast axis expanded."""
        value = self.apply_pending(value)
        missing = tuple(a for a in flat(value.axes) if a not in value.stored)
        if not missing:
            return value
        value, free = self.with_free_axis(value)
        target = with_axis(value.dims, free, missing)
        return value.stored_as(self.emit("Expand", [value.name, self.vector(sizes(target))], sizes(target)), target)

    def with_free_axis(self, value: Value) -> tuple[Value, int]:
        """Return ``value`` in a layout with an empty physical axis, and that axis."""
        free = next((g for g in (3, 2, 0, 1) if not value.dims[g]), None)
        if free is not None:
            return value, free
        a, b, c, d = value.dims
        return self.relayout(value, (a, b, c + d, ())), 3

    def align(self, values: Sequence[Value], *, skip: Sequence[int] = ()) -> list[Value]:
        """Return ``values``, of equal rank, over common atoms; axes of size 1 stay empty.

        Axes in ``skip`` are not aligned.
        """
        values = [self.with_own_atoms(v) for v in values]
        for axis in range(len(values[0].axes)):
            if axis in skip:
                continue
            filled = [v.axes[axis] for v in values if v.axes[axis]]
            if not filled:
                continue
            factors = refinement(filled)
            if factors is None:
                values = [self.merge_adjacent(self.apply_pending(v)) for v in values]
                factors = refinement([v.axes[axis] for v in values if v.axes[axis]])
            if factors is None:
                values = [self._single_atom(v, axis) if v.axes[axis] else v for v in values]
                factors = [size(filled[0])]
            common = tuple(Atom(n) for n in factors)
            values = [v.substituted(matched(v.axes[axis], common)) if v.axes[axis] else v for v in values]
        return values

    def merge_adjacent(self, value: Value) -> Value:
        """Return ``value``, which has no pending affine, with the atoms of each axis merged if adjacent in memory."""
        parts: dict[Atom, Atoms] = {}
        for axis in value.axes:
            for group in value.dims:
                if len(axis) > 1 and any(group[i : i + len(axis)] == axis for i in range(len(group))):
                    parts |= {axis[0]: (Atom(size(axis)),), **dict.fromkeys(axis[1:], ())}
        return value.substituted(parts)

    def with_own_atoms(self, value: Value) -> Value:
        """Return ``value`` over new atoms."""
        return value.substituted({a: (Atom(a.size),) for a in dict.fromkeys((*flat(value.axes), *flat(value.dims)))})

    def _single_atom(self, value: Value, axis: int) -> Value:
        """Return ``value`` with ``axis`` as one atom, moved if it is not contiguous."""
        atoms = value.axes[axis]
        if len(atoms) == 1:
            return value
        value = self.materialize(value)
        rest = tuple(tuple(a for a in g if a not in atoms) for g in value.dims)
        value = self.relayout(value, (rest[0], rest[1], rest[2] + rest[3], atoms))
        whole = Atom(size(atoms))
        return replace(value, dims=with_axis(value.dims, 3, (whole,)), axes=with_axis(value.axes, axis, (whole,)))


def broadcastable(array: NDArray[Any], atoms: Atoms, dims: Dims) -> NDArray[Any]:
    """Return ``array``, row-major over ``atoms``, as a 4-D constant broadcastable to ``dims``."""
    index = {a: i for i, a in enumerate(atoms)}
    ordered = [a for a in flat(dims) if a in index]
    fine = array.reshape([a.size for a in atoms]).transpose([index[a] for a in ordered])
    given = [a.size if a in index else 1 for a in flat(dims)]
    return move_array(fine.reshape(given), [(a,) for a in flat(dims)], dims)


def tensor_view(value: Value) -> TensorView:
    """Return how the original tensor is read from the physical tensor of ``value``."""
    stored = flat(value.dims)
    at = {a: i for i, a in enumerate(stored)}
    perm = tuple(at[a] for a in flat(value.axes))
    return TensorView(value.name, tuple(sizes(value.dims)), tuple(a.size for a in stored), perm, tuple(value.shape))
