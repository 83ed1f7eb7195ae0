"""Selectors: which boards of a fleet are meant, in one line of text."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bpudeploy.errors import UsageError
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.fleet import Fleet, FleetBoard

KEYS = ("name", "group", "target", "chip")
"""What every board has; any other key is a label. ``chip`` is the target's march."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VALUE = re.compile(r"[A-Za-z0-9_.*?-]+")


@dataclass(frozen=True)
class Term:
    """One condition: a board has one of ``values`` under ``key``; or, not ``wanted``, it has none of them."""

    key: str
    wanted: bool
    values: tuple[str, ...]
    """``*`` and ``?`` in them stand for any text and any character."""

    def matches(self, name: str, board: FleetBoard, march: str) -> bool:
        """Return whether the board is meant. ``march`` is its target's."""
        has = self.of(name, board, march)
        return self.wanted == any(fnmatchcase(one, value) for one in has for value in self.values)

    def of(self, name: str, board: FleetBoard, march: str) -> tuple[str, ...]:
        """Return what the board has under the key."""
        match self.key:
            case "name":
                return (name,)
            case "group":
                return board.groups
            case "target":
                return (board.target,)
            case "chip":
                return (march,)
            case _:
                return (board.labels[self.key],) if self.key in board.labels else ()

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.wanted else '!='}{'|'.join(self.values)}"


@dataclass(frozen=True)
class Selector:
    """A conjunction of terms; none: every board."""

    text: str
    terms: tuple[Term, ...]

    def matches(self, name: str, board: FleetBoard, march: str) -> bool:
        """Return whether the board is meant. ``march`` is its target's."""
        return all(term.matches(name, board, march) for term in self.terms)


def parse(text: str, labels: Collection[str] | None = None) -> Selector:
    """Parse ``group=canary|lab,chip=bayes-e,rack!=b``.

    A comma is *and*, ``|`` between values is *or*, ``!=`` is *none of these* (and true of a board without that
    label); ``name=rack-*`` is a pattern; ``*`` alone means every board.

    Args:
        labels: those that there are; given, another key is an error. Without, any key may be a label.

    Raises:
        UsageError: it is none; the message names the part that is wrong.
    """
    if text.strip() == "*":
        return Selector("*", ())
    terms = tuple(_term(part.strip(), text, labels) for part in text.split(","))
    return Selector(",".join(map(str, terms)), terms)


def labels_of(fleet: Fleet) -> tuple[str, ...]:
    """Return the labels that a fleet's boards have."""
    return tuple(sorted({label for board in fleet.boards.values() for label in board.labels}))


def _term(part: str, text: str, labels: Collection[str] | None) -> Term:
    keys = (*KEYS, *sorted(labels or ()))
    listed = f"keys: {', '.join(keys)}" + ("" if labels is not None else ", and any label")
    if not part:
        raise UsageError(f"the selector {text!r} has an empty part", hint=f"write KEY=VALUE between commas; {listed}")
    key, sign, after = part.partition("=")
    wanted = not key.endswith("!")
    key = key.removesuffix("!").strip()
    if not sign or not _KEY.fullmatch(key):
        raise UsageError(
            f"{part!r} in the selector {text!r} is no condition", hint=f"write KEY=VALUE or KEY!=VALUE; {listed}"
        )
    if labels is not None and key not in keys:
        near = nearest(key, keys)
        raise UsageError(
            f"{key!r} in the selector {text!r} is no key, and no board has such a label",
            hint=f"did you mean {near}? {listed}" if near else listed,
        )
    values = tuple(value.strip() for value in after.split("|"))
    for value in values:
        if not _VALUE.fullmatch(value):
            raise UsageError(
                f"{value!r} in {part!r} of the selector {text!r} is no value" if value else f"{part!r} has no value",
                hint="a value is letters, digits, `_`, `.`, `-`, with * and ? as in file names; `|` between two",
            )
    return Term(key, wanted, values)
