"""Write the YAML that both vendor tools read: groups of keys, unambiguous in YAML 1.1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal

from bpudeploy.spec.frozen import Frozen

Scalar = str | int | float | bool
NodeMap = dict[str, dict[str, str]]


class Group(Frozen):
    """One group of keys in the order of the file; None is omitted."""


class Document(Frozen):
    """The groups of a tool's configuration, in the order of the file."""

    def to_yaml(self, comment: str = "") -> str:
        """Return the text. Strings are quoted as in JSON, so none is read as a YAML keyword."""
        out = [f"# {line}" for line in comment.splitlines()]
        for name in type(self).model_fields:
            out.append(f"{name}:")
            out += [f"  {line}" for line in _lines(getattr(self, name))]
        return "\n".join(out) + "\n"


def join_numbers(values: Iterable[float]) -> str:
    """Return numbers joined with spaces, without exponents, as the tools read them."""
    return " ".join(_plain(value) for value in values)


def _plain(value: float) -> str:
    """Return a number without an exponent: YAML 1.1 reads 1e-05 as a string."""
    return format(Decimal(repr(value)), "f")


def _lines(group: Group) -> Iterable[str]:
    for key in type(group).model_fields:
        value: Scalar | NodeMap | None = getattr(group, key)
        if isinstance(value, dict):
            yield f"{key}:"
            yield from (f"  {_scalar(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in value.items())
        elif value is not None:
            yield f"{key}: {_scalar(value)}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return _plain(value)
    return json.dumps(value, ensure_ascii=False)
