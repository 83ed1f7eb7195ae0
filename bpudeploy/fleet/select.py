"""Selectors: expressions that choose boards of a fleet."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bpudeploy.errors import UsageError
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.fleet import Fleet, FleetBoard

KEYS = ("name", "group", "target", "chip")
"""Keys that every board has; any other key is a label. ``chip`` is the target's march."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VALUE = re.compile(r"[A-Za-z0-9_.*?-]+")


@dataclass(frozen=True)
class Term:
    """One condition: ``key`` has one of ``values``, or none of them if not ``wanted``."""

    key: str
    wanted: bool
    values: tuple[str, ...]
    """Patterns with ``*`` and ``?``, as in file names."""

    def matches(self, name: str, board: FleetBoard, march: str) -> bool:
        """Return whether the board meets the condition; ``march`` is its target's."""
        found = self.values_of(name, board, march)
        return self.wanted == any(fnmatchcase(one, value) for one in found for value in self.values)

    def values_of(self, name: str, board: FleetBoard, march: str) -> tuple[str, ...]:
        """Return the board's values for the key."""
        keys = {"name": (name,), "group": board.groups, "target": (board.target,), "chip": (march,)}
        labels = (board.labels[self.key],) if self.key in board.labels else ()
        return keys.get(self.key, labels)

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.wanted else '!='}{'|'.join(self.values)}"


@dataclass(frozen=True)
class Selector:
    """A conjunction of terms; without terms it matches every board."""

    text: str
    terms: tuple[Term, ...]

    def matches(self, name: str, board: FleetBoard, march: str) -> bool:
        """Return whether the board meets all terms; ``march`` is its target's."""
        return all(term.matches(name, board, march) for term in self.terms)


def parse(text: str, labels: Collection[str] | None = None) -> Selector:
    """Parse ``group=canary|lab,chip=bayes-e,rack!=b``.

    A comma means *and*, ``|`` between values means *or*, and ``!=`` means *none of these*, which includes boards
    without that label. Values are patterns such as ``rack-*``; ``*`` alone matches every board.

    Args:
        labels: the labels of the fleet; any other key is an error. None accepts every key as a label.

    Raises:
        UsageError: the selector is invalid; the message names the wrong part.
    """
    if text.strip() == "*":
        return Selector("*", ())
    terms = tuple(_term(part.strip(), text, labels) for part in text.split(","))
    return Selector(",".join(map(str, terms)), terms)


def labels_of(fleet: Fleet) -> tuple[str, ...]:
    """Return the labels used in a fleet, sorted."""
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
            f"{part!r} in the selector {text!r} is not a condition", hint=f"write KEY=VALUE or KEY!=VALUE; {listed}"
        )
    if labels is not None and key not in keys:
        near = nearest(key, keys)
        raise UsageError(
            f"{key!r} in the selector {text!r} is neither a key nor a label of a board",
            hint=f"did you mean {near}? {listed}" if near else listed,
        )
    values = tuple(value.strip() for value in after.split("|"))
    for value in values:
        if not _VALUE.fullmatch(value):
            raise UsageError(
                f"{value!r} in {part!r} of the selector {text!r} is not a valid value"
                if value
                else f"{part!r} has no value",
                hint="use letters, digits, `_`, `.`, `-`, * and ?; write `|` between values",
            )
    return Term(key, wanted, values)
