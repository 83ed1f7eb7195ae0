"""A fleet's file to the boards and the policy in it, every error with its place. No secret is read or repeated."""

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
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.fleet import Fleet, FleetBoard, Wave
from bpudeploy.spec.load import is_file, list_targets, load_target
from bpudeploy.spec.target import Connection, Target
from bpudeploy.spec.validate import FieldPath, all_of, dotted, problem, validate
from bpudeploy.spec.yamlmarks import Node, load_yaml

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECRET = re.compile(
    r"pass|pwd|psk|key|keys|tokens|secrets|credentials?|.*(?:password|passwd|passphrase|secret|token|apikey|sshkey)"
)
_NO_SECRETS = "a fleet file has no secrets: keys, users and agents are those of ~/.ssh/config; remove it"
_PRIVATE = "PRIVATE KEY-----"
Found = Iterator[tuple[FieldPath, str, str]]


def load_fleet(path: Path) -> Fleet:
    """Load a fleet file, and see that it can be rolled out to: addresses, targets, waves, selectors, windows.

    Raises:
        SpecError: the first of all errors found, with the rest in ``others``.
    """
    root = load_yaml(path)
    for look in (_secrets, _names, _parts):
        _raise(look(root))
    fleet = validate(Fleet, root)
    targets, wrong = _targets(fleet, root, path.parent)
    rules: tuple[Callable[[Fleet, Node], Found], ...] = (_boards, _addresses, _ids, _labels, _percentages, _windows)
    found = [problem(root, *one) for rule in rules for one in rule(fleet, root)]
    found += [problem(root, *one) for one in _waves(fleet, {name: t.march for name, t in targets.items()})]
    _raise([*wrong, *found])
    return fleet


def targets_of(fleet: Fleet, folder: Path) -> dict[str, Target]:
    """Return the targets of a fleet's boards by name; ``folder`` is that of the fleet's file.

    Raises:
        SpecError: there is none of that name, or its file is wrong.
    """
    names = dict.fromkeys(board.target for board in fleet.boards.values())
    return {name: load_target(name, folder)[0] for name in names}


def is_secret(key: str) -> bool:
    """Return whether a key's name says that its value is a secret: ``become_password``, ``apiToken``, ``ssh_key``."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", key).lower()
    return any(_SECRET.fullmatch(word) for word in re.split(r"[^a-z0-9]+", words))


def holds_password(address: str) -> bool:
    """Return whether an address has a password in it, as URLs may (user:password@host)."""
    return re.match(r"[^@]*:[^@]*@", address.removeprefix("ssh://")) is not None


def _raise(errors: Iterable[SpecError]) -> None:
    if flat := [one for error in errors for one in (error, *error.others)]:
        raise all_of(flat)


def _secrets(node: Node, at: FieldPath = ()) -> Iterator[SpecError]:
    """Yield an error for each key that names a secret, and for each value that is one; a value is never shown."""
    name = dotted(at)
    if isinstance(node.scalar, str):
        if _PRIVATE in node.scalar:
            yield SpecError(f"{name} holds a private key", where=node.mark, field=name, hint=_NO_SECRETS)
        elif at[-1:] in (("address",), ("jump",)) and holds_password(node.scalar):
            yield SpecError(f"{name} holds a password", where=node.mark, field=name, hint=_NO_SECRETS)
    for text, (key, child) in (node.items or {}).items():
        if is_secret(text) and at != ("boards",):
            yield SpecError(
                f"{text!r} is no key of a fleet", where=key.mark, field=dotted((*at, text)), hint=_NO_SECRETS
            )
        else:
            yield from _secrets(child, (*at, text))
    for index, child in enumerate(node.elements or ()):
        yield from _secrets(child, (*at, index))


def _names(root: Node) -> Iterator[SpecError]:
    """Yield an error for each board and each label whose name is no word."""
    boards = root.get(("boards",))
    for name, (_, board) in (boards.items or {} if boards else {}).items():
        labels = board.get(("labels",))
        of_labels = [("boards", name, "labels", label) for label in (labels.items or {} if labels else {})]
        for path in (("boards", name), *of_labels):
            if not _WORD.fullmatch(path[-1]):
                yield SpecError(
                    f"{path[-1]!r} is no name of a {'board' if len(path) == 2 else 'label'}",
                    where=root.key_mark(path),
                    field=dotted(path),
                    hint="a name is letters, digits, `_`, `.` and `-`, and begins with a letter or digit",
                )


def _parts(root: Node) -> Iterator[SpecError]:
    """Yield what is wrong with each board and each wave by itself: so an unknown key is told the keys there."""
    boards, waves = root.get(("boards",)), root.get(("rollout", "waves"))
    board_parts: list[tuple[type[FleetBoard | Wave], FieldPath, Node]] = [
        (FleetBoard, ("boards", name), node) for name, (_, node) in (boards.items or {} if boards else {}).items()
    ]
    wave_parts: list[tuple[type[FleetBoard | Wave], FieldPath, Node]] = [
        (Wave, ("rollout", "waves", number), node) for number, node in enumerate(waves.elements or () if waves else ())
    ]
    for model, path, node in board_parts + wave_parts:
        try:
            validate(model, node, path)
        except SpecError as error:
            yield error


def _targets(fleet: Fleet, root: Node, folder: Path) -> tuple[dict[str, Target], list[SpecError]]:
    """Return each target that can be used, and an error for each board of another."""
    targets: dict[str, Target] = {}
    wrong: list[SpecError] = []
    refused: dict[str, tuple[str, str]] = {}
    for name, board in fleet.boards.items():
        if board.target not in targets and board.target not in refused:
            got = _target(board.target, folder)
            if isinstance(got, Target):
                targets[board.target] = got
            else:
                refused[board.target] = got
        if board.target in refused:
            wrong.append(problem(root, ("boards", name, "target"), *refused[board.target]))
    return targets, wrong


def _target(name: str, folder: Path) -> Target | tuple[str, str]:
    """Return the target, or what is wrong with it and what to do."""
    if is_file(name):
        return (
            f"{name!r}: a fleet's targets are named, not given by their files",
            "put it into targets/ beside this file",
        )
    try:
        target, _ = load_target(name, folder)
    except SpecError as error:
        if error.where is not None:
            raise  # its own file is wrong
        return error.message, error.hint or ""
    if target.board.connection is Connection.EMBEDDED:
        real = sorted(n for n in list_targets(folder) if not n.startswith("sim-") and n != name)
        return (
            f"{name} starts a board of its own for each run, and no fleet has it",
            f"name what is at the address: {', '.join(real)}",
        )
    return target


def _boards(fleet: Fleet, root: Node) -> Found:
    if not fleet.boards:
        yield ("boards",), "there is no board in the fleet", "add `NAME: {address: USER@HOST, target: rdk-x5}`"


def _addresses(fleet: Fleet, root: Node) -> Found:
    """Each address parses, and is one board's. Behind different jump hosts, one private address may be two boards."""
    places: dict[tuple[object, ...], str] = {}
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
        place = (_place(address), _place(jump) if jump else None)
        if place[0] == place[1]:
            yield ("boards", name, "jump"), f"the jump host of {name} is {name} itself", "remove `jump:`"
        first = places.setdefault(place, name)
        if first != name:
            at = root.get(("boards", first, "address"))
            assert at is not None
            yield (
                ("boards", name, "address"),
                f"{name} is at the address of {first} (line {at.mark.line})",
                "name a board once; give it more groups or labels",
            )


def _place(address: Address) -> tuple[str, int]:
    """Return which server an address means, whoever logs in there."""
    try:
        host = ipaddress.ip_address(address.host).compressed
    except ValueError:
        host = address.host.lower()
    return host, address.port or 22


def _ids(fleet: Fleet, root: Node) -> Found:
    seen: dict[str, str] = {}
    for name, board in fleet.boards.items():
        first = seen.setdefault(board.board_id, name) if board.board_id is not None else name
        if first != name:
            at = root.get(("boards", first, "board_id"))
            assert at is not None
            text = f"{name} has the board_id of {first} (line {at.mark.line})"
            yield ("boards", name, "board_id"), text, "a board is in the fleet once"


def _labels(fleet: Fleet, root: Node) -> Found:
    for name, board in fleet.boards.items():
        for label in board.labels:
            if label in KEYS:
                yield (
                    ("boards", name, "labels", label),
                    f"no label can be named {label!r}: a selector means something else by it",
                    f"choose another name than {', '.join(KEYS)}",
                )


def _percentages(fleet: Fleet, root: Node) -> Found:
    total = Fraction(0)
    for number, wave in enumerate(fleet.rollout.waves):
        total += Fraction(str(wave.percent or 0))
        if wave.percent is not None and total > 100:
            yield (
                ("rollout", "waves", number, "percent"),
                f"the waves take {float(total):g} % of the boards together",
                "100 at most; what no wave takes is the last one",
            )


def _windows(fleet: Fleet, root: Node) -> Found:
    for number, text in enumerate(fleet.rollout.windows):
        try:
            parse_window(text)
        except UsageError as error:
            yield ("rollout", "windows", number), error.message, error.hint or ""


def _waves(fleet: Fleet, marches: Mapping[str, str]) -> Found:
    for number, wave in enumerate(fleet.rollout.waves):
        path = ("rollout", "waves", number)
        ways = [way for way in ("select", "count", "percent") if getattr(wave, way) is not None]
        if len(ways) != 1:
            said = f"has {' and '.join(ways)}" if ways else "does not say which boards it takes"
            yield path, f"wave {number + 1} {said}", "write one of select, count and percent"
        if wave.select is None:
            continue
        try:
            selector = parse(wave.select, labels_of(fleet))
        except UsageError as error:
            yield (*path, "select"), error.message, error.hint or ""
            continue
        if all(board.target in marches for board in fleet.boards.values()) and fleet.boards:
            yield from _takes_somebody(fleet, selector, marches, (*path, "select"))


def _takes_somebody(fleet: Fleet, selector: Selector, marches: Mapping[str, str], path: FieldPath) -> Found:
    """A canary wave whose group is misspelt would let the release go to everybody at once."""
    boards = [(name, board, marches[board.target]) for name, board in fleet.boards.items()]
    if any(selector.matches(*board) for board in boards):
        return
    for term in selector.terms:
        if not any(term.matches(*board) for board in boards):
            there = sorted({value for board in boards for value in term.of(*board)})
            near = nearest(term.values[0], there)
            hint = f"did you mean {near}?" if near else f"there are: {', '.join(there[:20])}"
            yield path, f"no board of this fleet has {term}", hint
            return
    yield path, f"no board of this fleet matches all of {selector.text}", "a wave is for boards that there are"
