"""An Ansible inventory to a fleet file. Secrets are left behind: named by their variables, never shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bpudeploy.boards.address import Address
from bpudeploy.errors import UsageError
from bpudeploy.fleet.ansible_ssh import Way, way_of
from bpudeploy.fleet.inventory import holds_password, is_secret
from bpudeploy.fleet.select import KEYS
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.fleet import FleetBoard

_LIST_S = 120.0
_IMPLIED = ("all", "ungrouped")
_SSH = {"ssh", "smart", "paramiko", "paramiko_ssh"}
_HOST, _PORT, _USER = (
    ("ansible_host", "ansible_ssh_host"),
    ("ansible_port", "ansible_ssh_port"),
    ("ansible_user", "ansible_ssh_user"),
)
_ARGS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_OURS = ("bpudeploy_target", "bpudeploy_labels", "bpudeploy_board_id")
_READ = {*_HOST, *_PORT, *_USER, *_ARGS, *_OURS, "ansible_connection"}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.@/-]*")
_NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # to some reader of YAML


@dataclass(frozen=True)
class Imported:
    """A fleet file's text, and what of the inventory is not in it."""

    text: str
    boards: tuple[str, ...]
    left_out: tuple[str, ...]
    """A sentence each; also a comment at the top of ``text``."""


class _LeftOut(Exception):
    """Why a host is not taken over."""


@dataclass
class _Notes:
    found: dict[str, list[str]] = field(default_factory=dict)
    """What is to be said, to the hosts that it is said of; none: of the whole inventory."""

    def add(self, what: str, host: str | None = None) -> None:
        hosts = self.found.setdefault(what, [])
        hosts += [host] if host is not None else []

    def all(self) -> tuple[str, ...]:
        return tuple(f"{_several(hosts)}: {what}" if hosts else what for what, hosts in self.found.items())


@dataclass(frozen=True)
class _Inventory:
    hosts: dict[str, dict[str, object]]
    """In the order of the inventory's file, with their variables, those of their groups included."""
    groups: dict[str, tuple[str, ...]]
    """Host to its groups, by name, without all and ungrouped."""


def read_ansible(path: Path) -> str:
    """Return what ``ansible-inventory -i PATH --list`` prints; or the text of a .json file that holds it already.

    Raises:
        UsageError: there is no such file, no ansible-inventory, or it cannot read the file.
    """
    if not path.exists():
        raise UsageError(
            f"there is no {path}", hint="give an Ansible inventory, or a .json of `ansible-inventory --list`"
        )
    if path.suffix == ".json":
        return path.read_text(encoding="utf-8", errors="replace")
    tool = shutil.which("ansible-inventory")
    by_hand = f"`ansible-inventory -i {path} --list"
    if tool is None:
        raise UsageError(
            "ansible-inventory is not on PATH", hint=f"where Ansible is: {by_hand} > fleet.json`, and import that"
        )
    strict = {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "true", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}
    argv = [tool, "-i", str(path), "--list"]
    try:
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=_LIST_S, env={**os.environ, **strict}
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"ansible-inventory did not end in {_LIST_S:g} s", hint=f"try {by_hand}`") from error
    if done.returncode != 0:  # what it says may quote a line with a password
        raise UsageError(f"ansible-inventory cannot read {path}", hint=f"{by_hand}` says why")
    return done.stdout.decode("utf-8", "replace")


def from_ansible(text: str, *, target_of: Mapping[str, str] | None = None, labels: Collection[str] = ()) -> Imported:
    """Turn the JSON of ``ansible-inventory --list`` into a fleet file.

    A board is a host: its name, ansible_host, ansible_port, ansible_user, its groups with those above them, and the
    jump host of its SSH arguments. Names that are no words are converted: what is not a letter, a digit, ``_``, ``.``
    or ``-`` becomes ``-``. A board's target is its variable ``bpudeploy_target``, or that of ``target_of`` for its
    groups; its labels are the map ``bpudeploy_labels`` and the variables that ``labels`` names. No other variable is
    taken over: one never knows what is in them.

    Args:
        target_of: Ansible's group to target; the group ``all`` is for boards that no other decides.
        labels: variables that become labels.

    Raises:
        UsageError: it is no such JSON, holds no board, or leaves a board's target open.
    """
    inventory, targets = _inventory(text), dict(target_of or {})
    _known(targets, inventory)
    notes = _Notes()
    boards: dict[str, FleetBoard] = {}
    for host, variables in inventory.hosts.items():
        try:
            board = _board(host, variables, inventory.groups[host], targets, labels, notes)
        except _LeftOut as why:
            notes.add(f"not taken over: {why}", host)
            continue
        boards[_free(_word(host), boards, host, notes)] = board
    left_out = notes.all()
    open_ones = [name for name, board in boards.items() if not board.target]
    if open_ones:
        raise UsageError(
            f"the target of {', '.join(open_ones[:10])}{' and others' if len(open_ones) > 10 else ''} is not known",
            hint="set the variable bpudeploy_target in the inventory, or name a target for a group, or for all",
        )
    if not boards:
        said = "".join(f"; {line}" for line in left_out[:3])
        raise UsageError(f"no board is in the inventory{said}", hint="a board is a host that is reached over SSH")
    return Imported(_written(boards, left_out), tuple(boards), left_out)


def _inventory(text: str) -> _Inventory:
    try:
        read = json.loads(text)
    except ValueError as error:
        raise UsageError("the inventory is no JSON", hint="give what `ansible-inventory --list` prints") from error
    meta = read.get("_meta") if isinstance(read, dict) else None
    hostvars = meta.get("hostvars") if isinstance(meta, dict) else None
    if not isinstance(read, dict) or not isinstance(hostvars, dict):
        raise UsageError(
            "the JSON has no _meta.hostvars: it is not of `ansible-inventory --list`",
            hint="an inventory that is written in JSON goes through that command first",
        )
    above: dict[str, dict[str, None]] = {}
    for host, group in _members(read, "all", ()):
        above.setdefault(host, {}).update(dict.fromkeys(group))
    order = (*above, *(host for host in hostvars if host not in above))
    hosts = {host: dict(had) if isinstance(had := hostvars.get(host), dict) else {} for host in order}
    groups = {host: tuple(sorted(set(above.get(host, ())) - set(_IMPLIED))) for host in hosts}
    return _Inventory(hosts, groups)


def _members(read: Mapping[str, object], group: str, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each host under a group with the groups it is in for that, in the order of the inventory."""
    entry = read.get(group)
    if group in above or not isinstance(entry, dict):
        return
    way = (*above, group)
    for host in _names(entry.get("hosts")):
        yield host, way
    for child in _names(entry.get("children")):
        yield from _members(read, child, way)


def _names(found: object) -> tuple[str, ...]:
    return tuple(str(name) for name in found) if isinstance(found, list) else ()


def _known(targets: Mapping[str, str], inventory: _Inventory) -> None:
    there = sorted({"all", *(group for groups in inventory.groups.values() for group in groups)})
    for group in targets:
        if group not in there:
            near = nearest(group, there)
            hint = f"did you mean {near}?" if near else f"groups: {', '.join(there)}"
            raise UsageError(f"no group with a host in it is named {group!r}", hint=hint)


def _board(
    host: str,
    variables: Mapping[str, object],
    groups: tuple[str, ...],
    targets: Mapping[str, str],
    labels: Collection[str],
    notes: _Notes,
) -> FleetBoard:
    connection = _text(variables, ("ansible_connection",)) or "ssh"
    if connection.rpartition(".")[2] not in _SSH:
        raise _LeftOut(f"its connection is {_shown(connection)}, and bpudeploy's is SSH")
    way = _way(host, variables, notes)
    board = FleetBoard(
        address=_address(host, variables),
        target=_text(variables, ("bpudeploy_target",)) or _target(host, groups, targets),
        groups=tuple(dict.fromkeys(filter(None, (_word(group) for group in groups)))),
        labels=_labels(host, variables, labels, notes),
        jump=way.jump,
        board_id=_text(variables, ("bpudeploy_board_id",)),
    )
    for group in groups:
        if _word(group) != group:
            notes.add(f"group {_shown(group)} is written {_word(group) or 'not at all'}")
    for name in variables:
        if name not in _READ and name not in labels:
            notes.add(_about(name), host)
    return board


def _text(variables: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """Return the first of the variables that is set, as text."""
    name = next((name for name in names if variables.get(name) is not None), None)
    if name is None:
        return None
    value = variables[name]
    if isinstance(value, dict) and "__ansible_vault" in value:
        raise _LeftOut(f"{name} is encrypted")
    if isinstance(value, dict | list):
        raise _LeftOut(f"{name} is no text")
    if isinstance(value, str) and re.search(r"\{[{%]", value):
        raise _LeftOut(f"{name} is a template, which only a playbook fills in")
    return str(value)


def _address(host: str, variables: Mapping[str, object]) -> str:
    name, port, user = _text(variables, _HOST) or host, _text(variables, _PORT), _text(variables, _USER)
    name = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    text = (f"{user}@" if user else "") + name + (f":{port}" if port else "")
    try:
        return str(Address.parse(text))
    except UsageError as error:
        shown = "it holds a password" if holds_password(text) else "write [USER@]HOST[:PORT] of what is there"
        raise _LeftOut(f"its ansible_host, ansible_port and ansible_user make no address: {shown}") from error


def _way(host: str, variables: Mapping[str, object], notes: _Notes) -> Way:
    """Return the jump host that its SSH arguments name, and note what else they say."""
    try:
        args = " ".join(filter(None, (_text(variables, (name,)) for name in _ARGS)))
    except _LeftOut as why:
        notes.add(f"{why}; write what it says in ~/.ssh/config", host)
        return Way(None, ())
    way = way_of(args)
    for what in way.left_out:
        notes.add(what, host)
    return way


def _target(host: str, groups: tuple[str, ...], targets: Mapping[str, str]) -> str:
    """Return the target that its groups decide; nothing where none does."""
    found = sorted({targets[group] for group in groups if group in targets})
    if len(found) > 1:
        raise UsageError(
            f"the groups of {_shown(host)} name several targets: {', '.join(found)}",
            hint="set the variable bpudeploy_target of that host",
        )
    return found[0] if found else targets.get("all", "")


def _labels(host: str, variables: Mapping[str, object], names: Collection[str], notes: _Notes) -> dict[str, str]:
    given = variables.get("bpudeploy_labels")
    values = {**{n: variables[n] for n in names if n in variables}, **(given if isinstance(given, dict) else {})}
    labels: dict[str, str] = {}
    for name, value in sorted(values.items()):
        label, word = _word(str(name)), _word(json.dumps(value) if isinstance(value, bool) else str(value))
        if is_secret(str(name)) or holds_password(str(value).rpartition("://")[2]):
            why = "its name is that of a secret, or it holds a password"
        elif not label or label in KEYS or isinstance(value, dict | list) or not word:
            why = "it is no word, or its name is one of a selector's own"
        else:
            labels[label] = word
            continue
        notes.add(f"label {_shown(str(name))} is left out: {why}", host)
    return labels


def _word(text: str) -> str:
    """Return ``text`` as a name of a fleet file; nothing where nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-").rstrip("-")


def _free(name: str, taken: Collection[str], host: str, notes: _Notes) -> str:
    """Return a name that no board has yet."""
    free, number = name or "board", 2
    while free in taken:
        free, number = f"{name or 'board'}-{number}", number + 1
    if free != host:
        notes.add(f"written {free}", host)
    return free


def _about(variable: str) -> str:
    if variable.endswith("private_key_file"):
        why = "name the key in ~/.ssh/config, with IdentityFile"
    elif variable.startswith("ansible_become"):
        why = "bpudeploy becomes nobody else: log in as the user who may write where releases are installed"
    elif is_secret(variable):
        why = "no secret is taken over; bpudeploy uses the keys and the agent of ~/.ssh"
    elif variable.startswith("ansible_ssh"):
        why = "write what it says in ~/.ssh/config"
    else:
        why = "it is not used" if variable.startswith("ansible_") else "it becomes a label where that is asked for"
    return f"{_shown(variable)} is left out: {why}"


def _several(hosts: list[str]) -> str:
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return ", ".join(map(_shown, hosts[:3])) + more


def _shown(text: str) -> str:
    return text if text.isprintable() and len(text) < 100 else ascii(text[:100])


def _written(boards: Mapping[str, FleetBoard], left_out: tuple[str, ...]) -> str:
    lines = [
        "# The boards of an Ansible inventory, by `bpudeploy fleet import`. Add a `rollout:` when you roll out.",
        "#",
    ]
    if left_out:
        lines += ["# What is not as it was there:", *(f"#   {line}" for line in left_out), "#"]
    lines += ["# No secret has a place here: keys, agents and known_hosts are those of ~/.ssh.", "", "boards:"]
    for name, board in boards.items():
        lines += [f"  {_scalar(name)}:", f"    address: {_scalar(board.address)}"]
        lines += [f"    jump: {_scalar(board.jump)}"] if board.jump else []
        lines += [f"    target: {_scalar(board.target)}"]
        lines += [f"    groups: [{', '.join(map(_scalar, board.groups))}]"] if board.groups else []
        labels = ", ".join(f"{_scalar(key)}: {_scalar(value)}" for key, value in board.labels.items())
        lines += [f"    labels: {{{labels}}}"] if labels else []
        lines += [f"    board_id: {_scalar(board.board_id)}"] if board.board_id else []
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Return text as YAML that every reader takes for text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN:
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    """Return a character as JSON and YAML both write it; JSON writes some as two, which YAML takes for no character."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # half of such a pair
        return "\\ufffd"
    return f"\\U{code:08x}" if code > 0xFFFF else json.dumps(character)[1:-1]
