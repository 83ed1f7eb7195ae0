"""What the limit checks share: the node to check, findings, and access to shapes and attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bpudeploy.conformance.graph import NodeView, Tensor
from bpudeploy.conformance.table import Limits, OpTable


@dataclass(frozen=True)
class LimitFinding:
    """A violated limit with the value found, or an unchecked one with the reason."""

    text: str
    broken: bool


@dataclass(frozen=True, eq=False)
class Case:
    """One node against the limits of its operator on one march."""

    node: NodeView
    limits: Limits
    table: OpTable


Check = Callable[[Case, Any], Iterator[LimitFinding]]
"""Called with the node and the value of the limit, which is never None."""


class UnknownValue(Exception):
    """The graph does not contain what the check needs; the text becomes an unchecked finding."""


def broken(text: str) -> LimitFinding:
    return LimitFinding(text, True)


def unchecked(text: str) -> LimitFinding:
    return LimitFinding(text, False)


def shape(tensor: Tensor | None) -> tuple[int, ...]:
    """Return a tensor's shape; raise UnknownValue if it has none."""
    if tensor is None or tensor.shape is None:
        raise UnknownValue("unknown shape")
    return tensor.shape


def operand(case: Case, index: int) -> Tensor:
    """Return an input of the node; raise UnknownValue if it is left out."""
    inputs = case.node.inputs
    found = inputs[index] if index < len(inputs) else None
    if found is None:
        raise UnknownValue(f"input {index} is not given")
    return found


def numbers(case: Case, attribute: str, index: int | None, default: Iterable[int] = ()) -> tuple[int, ...]:
    """Return integers that newer opsets have as input ``index`` and older ones as an attribute."""
    found: Any = case.node.attributes.get(attribute)
    if found is None and index is not None and index < len(case.node.inputs) and case.node.inputs[index] is not None:
        tensor = operand(case, index)
        if tensor.values is None:
            raise UnknownValue(f"its {attribute} is not a constant of known value")
        found = tensor.values.reshape(-1).tolist()
    if found is None:
        return tuple(default)
    return tuple(int(n) for n in (found if isinstance(found, list | tuple) else [found]))


def word(case: Case, attribute: str, default: str) -> str:
    """Return a string attribute."""
    found = case.node.attributes.get(attribute, default)
    return found.decode() if isinstance(found, bytes) else str(found)


def positive(axis: int, rank: int) -> int:
    """Return a negative axis counted from the front."""
    return axis + rank if axis < 0 else axis


def text(dims: Iterable[int]) -> str:
    """Return ``3x3``."""
    return "x".join(map(str, dims)) or "scalar"


def within(what: str, values: Iterable[int], limit: tuple[int, int]) -> Iterator[LimitFinding]:
    """Yield a finding if a value is outside ``limit`` (least, most)."""
    low, high = limit
    values = tuple(values)
    if any(not low <= v <= high for v in values):
        wanted = f"must be {low}" if low == high else f"the limit is {high}" if low <= 1 else f"must be {low} to {high}"
        yield broken(f"{what} {text(values)}, {wanted}")


def at_most(what: str, value: int, limit: int) -> Iterator[LimitFinding]:
    """Yield a finding if ``value`` is above ``limit``."""
    if value > limit:
        yield broken(f"{what} {value}, the limit is {limit}")


def one_of(what: str, value: int | str, allowed: Iterable[int | str]) -> Iterator[LimitFinding]:
    """Yield a finding if ``value`` is not among ``allowed``."""
    if value not in allowed:
        yield broken(f"{what} {value}, must be {' or '.join(map(str, allowed))}")
