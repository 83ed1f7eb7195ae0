"""Load a fleet file; every error has its file position. Secrets are refused and never shown."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from bpudeploy.boards.address import Address
from bpudeploy.errors import SpecError, UsageError
from bpudeploy.fleet.select import KEYS, Selector, labels_of, parse
from bpudeploy.fleet.windows import parse as parse_window
from bpudeploy.spec.compose import did_you_mean
from bpudeploy.spec.fleet import Fleet, FleetBoard, Wave
from bpudeploy.spec.load import is_file, list_targets, load_target
from bpudeploy.spec.target import Connection, Target
from bpudeploy.spec.validate import FieldPath, all_of, dotted, problem, validate
from bpudeploy.spec.yamlmarks import Node, load_yaml

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECRET = re.compile(
    r"pass|pwd|psk|key|keys|tokens|secrets|credentials?|.*(?:password|passwd|passphrase|secret|token|apikey|sshkey)"
)
_NO_SECRETS = "remove it: a fleet file has no secrets; keys, users and agents are those of ~/.ssh/config"
_PRIVATE = "PRIVATE KEY-----"
Problems = Iterator[tuple[FieldPath, str, str]]
"""Field, message and hint."""


def load_fleet(path: Path) -> Fleet:
    """Load a fleet file and check its addresses, targets, waves, selectors and windows.

    Raises:
        SpecError: the first of all errors, with the rest in ``others``.
    """
    root = load_yaml(path)
    for check in (_secrets, _names, _parts):
        _raise_if_any(check(root))
    fleet = validate(Fleet, root)
    targets, wrong = _targets(fleet, root, path.parent)
    rules: tuple[Callable[[Fleet, Node], Problems], ...] = (_boards, _addresses, _ids, _labels, _percentages, _windows)
    found = [problem(root, *one) for rule in rules for one in rule(fleet, root)]
    found += [problem(root, *one) for one in _waves(fleet, {name: t.march for name, t in targets.items()})]
    _raise_if_any([*wrong, *found])
    return fleet


def targets_of(fleet: Fleet, folder: Path) -> dict[str, Target]:
    """Return the targets of a fleet's boards by name; ``folder`` is that of the fleet file.

    Raises:
        SpecError: a target does not exist, or its file is invalid.
    """
    names = dict.fromkeys(board.target for board in fleet.boards.values())
    return {name: load_target(name, folder)[0] for name in names}


def is_secret(key: str) -> bool:
    """Return whether a key names a secret, such as ``become_password``, ``apiToken`` or ``ssh_key``."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", key).lower()
    return any(_SECRET.fullmatch(word) for word in re.split(r"[^a-z0-9]+", words))


def holds_password(address: str) -> bool:
    """Return whether an address contains a password, as in user:password@host."""
    return re.match(r"[^@]*:[^@]*@", address.removeprefix("ssh://")) is not None


def _raise_if_any(errors: Iterable[SpecError]) -> None:
    if flat := [one for error in errors for one in (error, *error.others)]:
        raise all_of(flat)


def _secrets(node: Node, at: FieldPath = ()) -> Iterator[SpecError]:
    """Yield an error for each key that names a secret and each value that is one; values are never shown."""
    name = dotted(at)
    if isinstance(node.scalar, str):
        if _PRIVATE in node.scalar:
            yield SpecError(f"{name} contains a private key", where=node.mark, field=name, hint=_NO_SECRETS)
        elif at[-1:] in (("address",), ("jump",)) and holds_password(node.scalar):
            yield SpecError(f"{name} contains a password", where=node.mark, field=name, hint=_NO_SECRETS)
    for text, (mark, child) in (node.items or {}).items():
        if is_secret(text) and at != ("boards",):
            yield SpecError(f"{text!r} looks like a secret", where=mark, field=dotted((*at, text)), hint=_NO_SECRETS)
        else:
            yield from _secrets(child, (*at, text))
    for index, child in enumerate(node.elements or ()):
        yield from _secrets(child, (*at, index))


def _names(root: Node) -> Iterator[SpecError]:
    """Yield an error for each invalid name of a board or label."""
    boards = root.get(("boards",))
    for name, (_, board) in (boards.items or {} if boards else {}).items():
        labels = board.get(("labels",))
        of_labels = [("boards", name, "labels", label) for label in (labels.items or {} if labels else {})]
        for path in (("boards", name), *of_labels):
            if not _WORD.fullmatch(path[-1]):
                yield SpecError(
                    f"{path[-1]!r} is not a valid {'board' if len(path) == 2 else 'label'} name",
                    where=root.key_mark(path),
                    field=dotted(path),
                    hint="use letters, digits, `_`, `.` and `-`, and begin with a letter or digit",
                )


def _parts(root: Node) -> Iterator[SpecError]:
    """Yield the errors of each board and wave by itself, so that the hint for an unknown key lists the right keys."""
    boards, waves = root.get(("boards",)), root.get(("rollout", "waves"))
    parts: list[tuple[type[FleetBoard | Wave], FieldPath, Node]] = []
    if boards:
        parts += [(FleetBoard, ("boards", name), node) for name, (_, node) in (boards.items or {}).items()]
    if waves:
        parts += [(Wave, ("rollout", "waves", number), node) for number, node in enumerate(waves.elements or ())]
    for model, path, node in parts:
        try:
            validate(model, node, path)
        except SpecError as error:
            yield error


def _targets(fleet: Fleet, root: Node, folder: Path) -> tuple[dict[str, Target], list[SpecError]]:
    """Return the usable targets, and an error for each board with another target."""
    found = {name: _target(name, folder) for name in dict.fromkeys(board.target for board in fleet.boards.values())}
    wrong = []
    for name, board in fleet.boards.items():
        got = found[board.target]
        if not isinstance(got, Target):
            wrong.append(problem(root, ("boards", name, "target"), *got))
    return {name: got for name, got in found.items() if isinstance(got, Target)}, wrong


def _target(name: str, folder: Path) -> Target | tuple[str, str]:
    """Return the target, or an error message and a hint."""
    if is_file(name):
        return (
            f"{name!r}: a fleet refers to targets by name, not by file",
            "move the target file to targets/ beside this file",
        )
    try:
        target, _ = load_target(name, folder)
    except SpecError as error:
        if error.where is not None:
            raise  # the target file is invalid
        return error.message, error.hint or ""
    if target.board.connection is Connection.EMBEDDED:
        real = sorted(n for n in list_targets(folder) if not n.startswith("sim-") and n != name)
        return (
            f"{name} is a simulated board, which a fleet cannot have",
            f"use the target of the board at this address: {', '.join(real)}",
        )
    return target


def _boards(fleet: Fleet, root: Node) -> Problems:
    if not fleet.boards:
        yield ("boards",), "the fleet has no boards", "add `NAME: {address: USER@HOST, target: rdk-x5}`"


def _addresses(fleet: Fleet, root: Node) -> Problems:
    """Addresses are valid and unique; behind different jump hosts, the same private address may be two boards."""
    names: dict[tuple[object, ...], str] = {}
    for name, board in fleet.boards.items():
        found: dict[str, Address] = {}
        for field, text in (("address", board.address), ("jump", board.jump)):
            try:
                found |= {field: Address.parse(text)} if text is not None else {}
            except UsageError as error:
                yield ("boards", name, field), f"{field}: {error.message}", error.hint or ""
        if len(found) < (1 if board.jump is None else 2):
            continue
        address, jump = found["address"], found.get("jump")
        server = (_server(address), _server(jump) if jump else None)
        if server[0] == server[1]:
            yield ("boards", name, "jump"), f"the jump host of {name} is {name} itself", "remove `jump:`"
        first = names.setdefault(server, name)
        if first != name:
            yield _repeated(root, name, first, "address", "list a board once; give it more groups or labels")


def _server(address: Address) -> tuple[str, int]:
    """Return the host and port of an address, normalized and without the user."""
    try:
        host = ipaddress.ip_address(address.host).compressed
    except ValueError:
        host = address.host.lower()
    return host, address.port or 22


def _ids(fleet: Fleet, root: Node) -> Problems:
    seen: dict[str, str] = {}
    for name, board in fleet.boards.items():
        first = seen.setdefault(board.board_id, name) if board.board_id is not None else name
        if first != name:
            yield _repeated(root, name, first, "board_id", "list a board once")


def _repeated(root: Node, name: str, first: str, field: str, hint: str) -> tuple[FieldPath, str, str]:
    at = root.get(("boards", first, field))
    assert at is not None
    return ("boards", name, field), f"{name} has the same {field} as {first} (line {at.mark.line})", hint


def _labels(fleet: Fleet, root: Node) -> Problems:
    for name, board in fleet.boards.items():
        for label in board.labels:
            if label in KEYS:
                yield (
                    ("boards", name, "labels", label),
                    f"a label cannot be named {label!r}: it is a selector key",
                    f"rename it; selector keys are {', '.join(KEYS)}",
                )


def _percentages(fleet: Fleet, root: Node) -> Problems:
    total = Fraction(0)
    for number, wave in enumerate(fleet.rollout.waves):
        total += Fraction(str(wave.percent or 0))
        if wave.percent is not None and total > 100:
            yield (
                ("rollout", "waves", number, "percent"),
                f"the waves add up to {float(total):g} % of the boards",
                "use at most 100 %; the remaining boards are the last wave",
            )


def _windows(fleet: Fleet, root: Node) -> Problems:
    for number, text in enumerate(fleet.rollout.windows):
        try:
            parse_window(text)
        except UsageError as error:
            yield ("rollout", "windows", number), error.message, error.hint or ""


def _waves(fleet: Fleet, marches: Mapping[str, str]) -> Problems:
    for number, wave in enumerate(fleet.rollout.waves):
        path = ("rollout", "waves", number)
        fields = [field for field in ("select", "count", "percent") if getattr(wave, field) is not None]
        if len(fields) != 1:
            what = f"has {' and '.join(fields)}" if fields else "does not select boards"
            yield path, f"wave {number + 1} {what}", "use exactly one of select, count and percent"
        if wave.select is None:
            continue
        try:
            selector = parse(wave.select, labels_of(fleet))
        except UsageError as error:
            yield (*path, "select"), error.message, error.hint or ""
            continue
        if all(board.target in marches for board in fleet.boards.values()) and fleet.boards:
            yield from _matches_a_board(fleet, selector, marches, (*path, "select"))


def _matches_a_board(fleet: Fleet, selector: Selector, marches: Mapping[str, str], path: FieldPath) -> Problems:
    """A misspelled canary group would otherwise update all boards at once."""
    boards = [(name, board, marches[board.target]) for name, board in fleet.boards.items()]
    if any(selector.matches(*board) for board in boards):
        return
    for term in selector.terms:
        if not any(term.matches(*board) for board in boards):
            values = sorted({value for board in boards for value in term.values_of(*board)})
            hint = did_you_mean(term.values[0], values, f"values: {', '.join(values[:20])}")
            yield path, f"no board of this fleet matches {term}", hint
            return
    yield path, f"no board of this fleet matches all of {selector.text}", "correct the selector, or remove the wave"
