"""What a limit's check reads and says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from bpudeploy.conformance.graph import NodeView, Tensor
from bpudeploy.conformance.table import Limits, OpTable


@dataclass(frozen=True)
class Finding:
    """A limit that is broken, with the value found; or one that could not be checked, with the reason."""

    text: str
    broken: bool


@dataclass(frozen=True, eq=False)
class Case:
    """One node against the limits of its operator on one march."""

    node: NodeView
    limits: Limits
    table: OpTable


Check = Callable[[Case], Iterator[Finding]]


class NotKnown(Exception):
    """The graph does not say what the check needs; the text becomes a finding that is not checked."""


def broken(text: str) -> Finding:
    """Return the finding of a limit that does not hold."""
    return Finding(text, True)


def unchecked(text: str) -> Finding:
    """Return the finding of a limit that nobody can decide from the graph."""
    return Finding(text, False)


def shape(tensor: Tensor | None) -> tuple[int, ...]:
    """Return a shape that a check cannot do without."""
    if tensor is None or tensor.shape is None:
        raise NotKnown("a shape is not known")
    return tensor.shape


def operand(case: Case, index: int) -> Tensor:
    """Return an input of the node."""
    inputs = case.node.inputs
    found = inputs[index] if index < len(inputs) else None
    if found is None:
        raise NotKnown(f"input {index} is not given")
    return found


def numbers(case: Case, attribute: str, index: int | None, default: Iterable[int] = ()) -> tuple[int, ...]:
    """Return whole numbers that newer opsets have as an input and older ones as an attribute."""
    found: Any = case.node.attributes.get(attribute)
    if found is None and index is not None and index < len(case.node.inputs) and case.node.inputs[index] is not None:
        tensor = operand(case, index)
        if tensor.values is None:
            raise NotKnown(f"its {attribute} is not a constant of known value")
        found = tensor.values.reshape(-1).tolist()
    if found is None:
        return tuple(default)
    return tuple(int(n) for n in (found if isinstance(found, list | tuple) else [found]))


def word(case: Case, attribute: str, default: str) -> str:
    """Return an attribute that is a word."""
    found = case.node.attributes.get(attribute, default)
    return found.decode() if isinstance(found, bytes) else str(found)


def positive(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return axis + rank if axis < 0 else axis


def text(dims: Iterable[int]) -> str:
    """Return ``3x3``."""
    return "x".join(map(str, dims)) or "scalar"


def bounds(limit: tuple[int, int]) -> str:
    """Return a range in words."""
    low, high = limit
    if low == high:
        return f"it must be {low}"
    return f"the limit is {high}" if low <= 1 else f"it must be {low} to {high}"


def within(what: str, values: Iterable[int], limit: tuple[int, int]) -> Iterator[Finding]:
    """Say so where a value is outside of ``limit``."""
    values = tuple(values)
    if any(not limit[0] <= v <= limit[1] for v in values):
        yield broken(f"{what} {text(values)}, {bounds(limit)}")


def at_most(what: str, value: int, limit: int) -> Iterator[Finding]:
    """Say so where ``value`` is above ``limit``."""
    if value > limit:
        yield broken(f"{what} {value}, the limit is {limit}")


def volume(dims: Iterable[int]) -> int:
    """Return the product."""
    return prod(dims)
