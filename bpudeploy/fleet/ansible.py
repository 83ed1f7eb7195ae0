"""Convert an Ansible inventory to a fleet file. Secrets are not imported; their values are never shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bpudeploy.boards.address import Address
from bpudeploy.errors import UsageError
from bpudeploy.fleet.ansible_ssh import SshArguments, read_ssh_arguments
from bpudeploy.fleet.inventory import holds_password, is_secret
from bpudeploy.fleet.select import KEYS
from bpudeploy.spec.fleet import FleetBoard

_TIMEOUT_S = 120.0
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
_NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # for some YAML parsers


@dataclass(frozen=True)
class Imported:
    """The text of a fleet file, and what was not imported."""

    text: str
    boards: tuple[str, ...]
    left_out: tuple[str, ...]
    """One sentence each; also in a comment at the top of ``text``."""


class _HostSkipped(Exception):
    """Why a host is not imported."""


@dataclass
class _Notes:
    hosts_of: dict[str, list[str]] = field(default_factory=dict)
    """Note to the hosts it is about; no hosts: the whole inventory."""

    def add(self, note: str, host: str | None = None) -> None:
        hosts = self.hosts_of.setdefault(note, [])
        hosts += [host] if host is not None else []

    def all(self) -> tuple[str, ...]:
        return tuple(f"{_several(hosts)}: {note}" if hosts else note for note, hosts in self.hosts_of.items())


def read_ansible(path: Path) -> str:
    """Return the output of ``ansible-inventory -i PATH --list``, or the text of a .json file with that output.

    Raises:
        UsageError: the file or ansible-inventory is missing, or ansible-inventory cannot read the file.
    """
    if not path.exists():
        raise UsageError(
            f"{path} does not exist", hint="pass an Ansible inventory, or a .json of `ansible-inventory --list`"
        )
    if path.suffix == ".json":
        return path.read_text(encoding="utf-8", errors="replace")
    tool = shutil.which("ansible-inventory")
    command = f"`ansible-inventory -i {path} --list"
    if tool is None:
        raise UsageError(
            "ansible-inventory is not on PATH",
            hint=f"on a machine with Ansible run {command} > fleet.json`, then import that file",
        )
    strict = {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "true", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}
    argv = [tool, "-i", str(path), "--list"]
    try:
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, env={**os.environ, **strict}
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"ansible-inventory did not finish within {_TIMEOUT_S:g} s", hint=f"run {command}`") from error
    if done.returncode != 0:  # its output may quote a line with a password
        raise UsageError(f"ansible-inventory cannot read {path}", hint=f"{command}` shows the error")
    return done.stdout.decode("utf-8", "replace")


def from_ansible(text: str, target: str | None = None) -> Imported:
    """Turn the JSON of ``ansible-inventory --list`` into a fleet file.

    Each host becomes a board with its name, ansible_host, ansible_port, ansible_user, all its groups, and the jump host
    of its SSH arguments. Characters of names other than letters, digits, ``_``, ``.`` and ``-`` become ``-``. The
    target is the variable ``bpudeploy_target``, or ``target``; labels are the map ``bpudeploy_labels``. No other
    variable is imported, as it may be a secret.

    Raises:
        UsageError: it is not such JSON, has no board, or a board has no target.
    """
    notes = _Notes()
    boards: dict[str, FleetBoard] = {}
    for host, variables, groups in _hosts(text):
        try:
            board = _board(host, variables, groups, target, notes)
        except _HostSkipped as why:
            notes.add(f"not imported: {why}", host)
            continue
        boards[_unique_name(_word(host), boards, host, notes)] = board
    left_out = notes.all()
    without_target = [name for name, board in boards.items() if not board.target]
    if without_target:
        raise UsageError(
            f"no target for {', '.join(without_target[:10])}{' and others' if len(without_target) > 10 else ''}",
            hint="set the variable bpudeploy_target in the inventory, or pass --target",
        )
    if not boards:
        notes_text = "".join(f"; {line}" for line in left_out[:3])
        raise UsageError(f"the inventory has no boards{notes_text}", hint="a board is a host reached over SSH")
    return Imported(_written(boards, left_out), tuple(boards), left_out)


def _hosts(text: str) -> Iterator[tuple[str, Mapping[str, object], list[str]]]:
    """Yield each host in the order of the inventory file, its variables, also those of its groups, and these groups.

    The groups are sorted, and do not include all and ungrouped.
    """
    try:
        read = json.loads(text)
    except ValueError as error:
        raise UsageError("the inventory is not JSON", hint="pass the output of `ansible-inventory --list`") from error
    meta = read.get("_meta") if isinstance(read, dict) else None
    hostvars = meta.get("hostvars") if isinstance(meta, dict) else None
    if not isinstance(read, dict) or not isinstance(hostvars, dict):
        raise UsageError(
            "the JSON has no _meta.hostvars: it is not from `ansible-inventory --list`",
            hint="run that command on an inventory written in JSON, and pass its output",
        )
    groups: dict[str, set[str]] = {}
    for host, path in _members(read, "all", ()):
        groups.setdefault(host, set()).update(path)
    for host in (*groups, *(host for host in hostvars if host not in groups)):
        variables = hostvars.get(host)
        named = groups.get(host, set()).difference(_IMPLIED)
        yield host, variables if isinstance(variables, dict) else {}, sorted(named)


def _members(read: Mapping[str, object], group: str, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each host under a group with the path of groups to it, in the order of the inventory."""
    entry = read.get(group)
    if group in above or not isinstance(entry, dict):
        return
    path = (*above, group)
    for host in _names(entry.get("hosts")):
        yield host, path
    for child in _names(entry.get("children")):
        yield from _members(read, child, path)


def _names(found: object) -> tuple[str, ...]:
    return tuple(str(name) for name in found) if isinstance(found, list) else ()


def _board(
    host: str,
    variables: Mapping[str, object],
    groups: Sequence[str],
    target: str | None,
    notes: _Notes,
) -> FleetBoard:
    connection = _text(variables, ("ansible_connection",)) or "ssh"
    if connection.rpartition(".")[2] not in _SSH:
        raise _HostSkipped(f"its connection is {_shown(connection)}, not SSH")
    arguments = _ssh_arguments(host, variables, notes)
    board = FleetBoard(
        address=_address(host, variables),
        target=_text(variables, ("bpudeploy_target",)) or target or "",
        groups=tuple(dict.fromkeys(filter(None, (_word(group) for group in groups)))),
        labels=_labels(host, variables, notes),
        jump=arguments.jump,
        board_id=_text(variables, ("bpudeploy_board_id",)),
    )
    for group in groups:
        if _word(group) != group:
            notes.add(f"group {_shown(group)} is {f'renamed to {_word(group)}' if _word(group) else 'dropped'}")
    for name in variables:
        if name not in _READ:
            notes.add(_skip_note(name), host)
    return board


def _text(variables: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """Return the first variable that is set, as text."""
    name = next((name for name in names if variables.get(name) is not None), None)
    if name is None:
        return None
    value = variables[name]
    if isinstance(value, dict) and "__ansible_vault" in value:
        raise _HostSkipped(f"{name} is encrypted")
    if isinstance(value, dict | list):
        raise _HostSkipped(f"{name} is not text")
    if isinstance(value, str) and re.search(r"\{[{%]", value):
        raise _HostSkipped(f"{name} is a template")
    return re.sub("[\ud800-\udfff]", "\ufffd", str(value))  # a lone surrogate


def _address(host: str, variables: Mapping[str, object]) -> str:
    name, port, user = _text(variables, _HOST) or host, _text(variables, _PORT), _text(variables, _USER)
    name = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    text = (f"{user}@" if user else "") + name + (f":{port}" if port else "")
    try:
        return str(Address.parse(text))
    except UsageError as error:
        why = "it contains a password" if holds_password(text) else "it is not [USER@]HOST[:PORT]"
        raise _HostSkipped(f"its ansible_host, ansible_port and ansible_user are not an address: {why}") from error


def _ssh_arguments(host: str, variables: Mapping[str, object], notes: _Notes) -> SshArguments:
    """Read the SSH arguments of a host, and note what is ignored in them."""
    try:
        args = " ".join(filter(None, (_text(variables, (name,)) for name in _ARGS)))
    except _HostSkipped as why:
        notes.add(f"{why}; move it to ~/.ssh/config", host)
        return SshArguments(None, ())
    arguments = read_ssh_arguments(args)
    for note in arguments.left_out:
        notes.add(note, host)
    return arguments


def _labels(host: str, variables: Mapping[str, object], notes: _Notes) -> dict[str, str]:
    given = variables.get("bpudeploy_labels")
    labels: dict[str, str] = {}
    for name, value in sorted(given.items()) if isinstance(given, dict) else ():
        label, word = _word(str(name)), _word(json.dumps(value) if isinstance(value, bool) else str(value))
        if is_secret(str(name)) or holds_password(str(value).rpartition("://")[2]):
            why = "it looks like a secret"
        elif not label or label in KEYS or isinstance(value, dict | list) or not word:
            why = "it is not a word, or its name is a selector key"
        else:
            labels[label] = word
            continue
        notes.add(f"label {_shown(str(name))} is ignored: {why}", host)
    return labels


def _word(text: str) -> str:
    """Return ``text`` as a name for a fleet file; empty if no character is allowed."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-").rstrip("-")


def _unique_name(name: str, taken: Collection[str], host: str, notes: _Notes) -> str:
    unique, number = name or "board", 2
    while unique in taken:
        unique, number = f"{name or 'board'}-{number}", number + 1
    if unique != host:
        notes.add(f"renamed to {unique}", host)
    return unique


def _skip_note(variable: str) -> str:
    if variable.endswith("private_key_file"):
        why = "use IdentityFile in ~/.ssh/config"
    elif variable.startswith("ansible_become"):
        why = "privilege escalation is not supported: log in as a user who may write to the release folder"
    elif is_secret(variable):
        why = "secrets are not imported; bpudeploy uses the keys and the agent of ~/.ssh"
    elif variable.startswith("ansible_ssh"):
        why = "move it to ~/.ssh/config"
    else:
        why = "it is not used" if variable.startswith("ansible_") else "use bpudeploy_labels for labels"
    return f"{_shown(variable)} is ignored: {why}"


def _several(hosts: list[str]) -> str:
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return ", ".join(map(_shown, hosts[:3])) + more


def _shown(text: str) -> str:
    return text if text.isprintable() and len(text) < 100 else ascii(text[:100])


def _written(boards: Mapping[str, FleetBoard], left_out: tuple[str, ...]) -> str:
    lines = [
        "# Boards of an Ansible inventory, converted by `bpudeploy fleet import`. Add a `rollout:` section.",
        "#",
    ]
    if left_out:
        lines += ["# Differences from the inventory:", *(f"#   {line}" for line in left_out), "#"]
    lines += ["# Do not add secrets: keys, agents and known_hosts are those of ~/.ssh.", "", ""]
    fields = {name: {k: v for k, v in board.model_dump(mode="json").items() if v} for name, board in boards.items()}
    return "\n".join(lines) + yaml.dump({"boards": fields}, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Writes text such that every YAML version reads it as text."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent)
