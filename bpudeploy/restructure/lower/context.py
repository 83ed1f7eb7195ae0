"""The place where lowering happens: what each tensor has become, and the few ways to make a new node."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.errors import StageError
from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, matched, refinement, size, sizes
from bpudeploy.restructure.graph import MOVE, Graph, Node, Output, Twin
from bpudeploy.restructure.imported import Network, Operation
from bpudeploy.restructure.moves import move_array
from bpudeploy.restructure.value import Maker, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

SELECTS = frozenset({"Split", "Slice", "Gather"})
_SMALL = 1 << 16


class Lowering:
    """Collects the 4-D graph of one network; ``at`` is the operation that is being lowered."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = Graph()
        self.values: dict[str, Value] = {}
        self.constants: dict[str, NDArray[Any]] = dict(network.constants)
        self.at: Operation = network.operations[0]
        self._known: dict[str, str] = {}

    # what the operation reads and writes

    def get(self, index: int) -> Value | NDArray[Any] | None:
        """Return an input of the operation: a value, a constant, or None where it is left out."""
        name = self.at.inputs[index] if index < len(self.at.inputs) else ""
        if not name:
            return None
        return self.constants[name] if name in self.constants else self.values[name]

    def value(self, index: int = 0) -> Value:
        """Return an input that must be a value."""
        found = self.get(index)
        if isinstance(found, Value):
            return found
        raise self.refuse(f"input {index} is not computed from the image")

    def constant(self, index: int) -> NDArray[Any] | None:
        """Return an input that must be a constant, or None where it is left out."""
        found = self.get(index)
        if isinstance(found, Value):
            raise self.refuse(
                f"its input {index} depends on the image",
                "a BPU runs one fixed network: export the model with a fixed number of tokens and blocks; the static "
                "options are restructure.approximate.drop_blocks and reduce_tokens",
            )
        return found

    def numbers(self, attribute: str, index: int | None = None, default: Sequence[int] = ()) -> list[int]:
        """Return a list of whole numbers that newer opsets have as an input and older ones as an attribute."""
        given = self.constant(index) if index is not None else None
        if given is not None:
            return [int(n) for n in given.reshape(-1)]
        return [int(n) for n in self.at.attributes.get(attribute, default)]

    def bind(self, value: Value, index: int = 0) -> None:
        """Say what an output of the operation has become."""
        name = self.at.outputs[index]
        if value.maker is not None and not self._may_change(name):
            value = replace(value, maker=None)
        self.values[name] = value
        if value.pending is None and frozenset(flat(value.axes)) == value.stored and value.name in self.graph.nodes:
            self.graph.twins.append(Twin(name, self.at.path, reading(value)))

    def refuse(self, why: str, fix: str = "") -> StageError:
        """Return the error that says why the operation cannot be lowered."""
        return StageError(
            f"{self.at.path}: {self.at.op} has no 4-D form here: {why}",
            hint=fix or "change the model there, or report its name",
        )

    def _may_change(self, tensor: str) -> bool:
        readers = self.network.readers.get(tensor, ())
        alone = len(readers) == 1 or all(r.op in SELECTS and r.inputs[0] == tensor for r in readers)
        return alone and tensor not in self.network.outputs

    # making nodes

    def name(self, suffix: str = "") -> str:
        """Return an unused name after the operation's place in the original."""
        return self.graph.fresh(f"{self.at.path}.{suffix}" if suffix else self.at.path)

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        suffix: str = "",
        *,
        keep_float: bool = False,
        **attributes: Any,
    ) -> str:
        """Append a node and return its name."""
        name = self.name(suffix or op.lower())
        return self.graph.add(
            Node(
                op,
                name,
                list(inputs),
                tuple(shape),
                {k: v for k, v in attributes.items() if v is not None},
                keep_float=keep_float,
            )
        )

    def store(self, array: NDArray[Any], suffix: str, *, shared: bool = False) -> str:
        """Store a constant, floats as float32; of equal bytes once, if small or ``shared``.

        Tables are ``shared`` (a rotary embedding's are as large as a layer's output, and the same in every layer);
        weights are not: hashing them would find nothing.
        """
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        key = ""
        if shared or array.nbytes <= _SMALL:
            array = np.ascontiguousarray(array)
            key = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
            if key in self._known:
                return self._known[key]
        name = self.name(suffix)
        self.graph.constants[name] = array
        if key:
            self._known[key] = name
        return name

    def scalar(self, number: float) -> str:
        """Store one number as a 4-D constant."""
        return self.store(np.full((1, 1, 1, 1), number, np.float32), "number")

    def vector(self, numbers: Sequence[int]) -> str:
        """Store whole numbers: a shape, or where a slice starts."""
        return self.store(np.array(numbers, np.int64), "index")

    def convolve(self, maker: Maker, shape: Sequence[int], suffix: str = "", *, keep_float: bool = False) -> str:
        """Append the convolution of ``maker`` and return its name."""
        inputs = [maker.source, self.store(maker.weight, f"{suffix}.weight" if suffix else "weight")]
        if maker.bias is not None and maker.bias.any():
            inputs.append(self.store(maker.bias, f"{suffix}.bias" if suffix else "bias"))
        name = self.name(suffix)
        attributes = {
            "kernel_shape": list(maker.weight.shape[2:]),
            "strides": list(maker.strides),
            "pads": list(maker.pads),
            "dilations": list(maker.dilations),
            "group": maker.group,
        }
        return self.graph.add(Node("Conv", name, inputs, tuple(shape), attributes, keep_float=keep_float))

    # bringing values into form

    def relayout(self, value: Value, target: Dims) -> Value:
        """Return ``value`` in the physical layout ``target``, over the same stored atoms."""
        if value.dims == target:
            return value
        shape = tuple(sizes(target))
        name = self.name("move")
        self.graph.add(Node(MOVE, name, [value.name], shape, source=value.dims, target=target))
        return replace(value, name=name, dims=target, maker=None)

    def settle(self, value: Value) -> Value:
        """Return ``value`` with what is pending computed."""
        if value.pending is None:
            return value
        pending, name, shape = value.pending, value.name, sizes(value.dims)
        if (pending.scale != 1).any():
            scale = self.store(spread(pending.scale, pending.atoms, value.dims), "scale")
            name = self.emit("Mul", [name, scale], shape, "scaled")
        if pending.shift.any():
            shift = self.store(spread(pending.shift, pending.atoms, value.dims), "shift")
            name = self.emit("Add", [name, shift], shape, "shifted")
        return replace(value, name=name, maker=None, pending=None)

    def fill(self, value: Value) -> Value:
        """Return ``value`` settled, with every broadcast axis really there."""
        value = self.settle(value)
        missing = tuple(a for a in flat(value.axes) if a not in value.stored)
        if not missing:
            return value
        value, free = self.roomy(value)
        target: Dims = tuple(missing if g == free else value.dims[g] for g in range(4))  # type: ignore[assignment]
        name = self.emit("Expand", [value.name, self.vector(sizes(target))], sizes(target))
        return replace(value, name=name, dims=target, maker=None)

    def roomy(self, value: Value) -> tuple[Value, int]:
        """Return ``value`` in a layout with an empty physical axis, and which one that is."""
        free = next((g for g in (3, 2, 0, 1) if not value.dims[g]), None)
        if free is not None:
            return value, free
        a, b, c, d = value.dims
        return self.relayout(value, (a, b, c + d, ())), 3

    def align(self, values: Sequence[Value], *, skip: Sequence[int] = ()) -> list[Value]:
        """Return ``values``, of equal rank, over common atoms: equal axes are made of the same atoms.

        An axis of size 1 stays empty. Axes in ``skip`` get atoms of their own in each value.
        """
        values = [self.own(v) for v in values]
        for axis in range(len(values[0].axes)):
            if axis in skip:
                continue
            filled = [v.axes[axis] for v in values if v.axes[axis]]
            if not filled:
                continue
            factors = refinement(filled)
            if factors is None:
                values = [self.fused(self.settle(v)) for v in values]
                factors = refinement([v.axes[axis] for v in values if v.axes[axis]])
            if factors is None:
                values = [self._solid(v, axis) if v.axes[axis] else v for v in values]
                factors = [size(filled[0])]
            common = tuple(Atom(n) for n in factors)
            values = [v.substituted(matched(v.axes[axis], common)) if v.axes[axis] else v for v in values]
        return values

    def fused(self, value: Value) -> Value:
        """Return ``value`` (settled) with each axis whose atoms lie side by side in memory as one atom."""
        parts: dict[Atom, Atoms] = {}
        for axis in value.axes:
            for group in value.dims:
                if len(axis) > 1 and any(group[i : i + len(axis)] == axis for i in range(len(group))):
                    parts |= {axis[0]: (Atom(size(axis)),), **dict.fromkeys(axis[1:], ())}
        return value.substituted(parts)

    def own(self, value: Value) -> Value:
        """Return ``value`` with atoms that no other value has."""
        return value.substituted({a: (Atom(a.size),) for a in dict.fromkeys((*flat(value.axes), *flat(value.dims)))})

    def _solid(self, value: Value, axis: int) -> Value:
        """Return ``value`` with ``axis`` as one atom, laid out anew if it is not so in memory."""
        atoms = value.axes[axis]
        if len(atoms) == 1:
            return value
        value = self.fill(value)
        rest = tuple(tuple(a for a in g if a not in atoms) for g in value.dims)
        value = self.relayout(value, (rest[0], rest[1], rest[2] + rest[3], atoms))
        whole = Atom(size(atoms))
        a, b, c, _ = value.dims
        axes = tuple((whole,) if i == axis else x for i, x in enumerate(value.axes))
        return replace(value, dims=(a, b, c, (whole,)), axes=axes)


def spread(array: NDArray[Any], atoms: Atoms, dims: Dims) -> NDArray[Any]:
    """Return ``array``, row-major over ``atoms``, as a 4-D constant that broadcasts over ``dims``."""
    index = {a: i for i, a in enumerate(atoms)}
    ordered = [a for a in flat(dims) if a in index]
    fine = array.reshape([a.size for a in atoms]).transpose([index[a] for a in ordered])
    given = [a.size if a in index else 1 for a in flat(dims)]
    return move_array(fine.reshape(given), [(a,) for a in flat(dims)], dims)


def reading(value: Value) -> Output:
    """Return how ``value`` is read from its physical tensor."""
    stored = flat(value.dims)
    at = {a: i for i, a in enumerate(stored)}
    perm = tuple(at[a] for a in flat(value.axes))
    return Output(value.name, tuple(sizes(value.dims)), tuple(a.size for a in stored), perm, tuple(value.shape))
