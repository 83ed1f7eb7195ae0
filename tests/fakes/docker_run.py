"""The command line of ``docker run``, as strict as docker's own where a build needs it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn

_VALUES = {
    **{"--name": 1, "--network": 1, "--user": 1, "--memory": 1, "--volume": 1, "--workdir": 1, "--env": 1},
    **{"--shm-size": 1, "--cpus": 1, "--memory-swap": 1, "--pids-limit": 1, "--label": 1, "--pull": 1},
    **{"--cap-drop": 1, "--security-opt": 1, "--entrypoint": 1, "--ulimit": 1},
    **{"--rm": 0, "--init": 0, "--interactive": 0, "--tty": 0, "--read-only": 0},
}
_SHORT = {"-v": "--volume", "-w": "--workdir", "-e": "--env", "-u": "--user", "-m": "--memory", "-l": "--label"}
_SHORT |= {"-i": "--interactive", "-t": "--tty"}
_SEE = "\n\nUsage:  docker run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'docker run --help' for more information"
_DAEMON = "docker: Error response from daemon: "
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"


@dataclass
class Run:
    """One ``docker run``; ``flags`` has every flag with its values, in order."""

    image: str = ""
    command: list[str] = field(default_factory=list)
    name: str = ""
    rm: bool = False
    init: bool = False
    pull: str = "missing"
    user: str = ""
    network: str = "bridge"
    memory: str = ""
    workdir: str = "/"
    mounts: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)


def read_run(argv: list[str], fail: Callable[[str], NoReturn]) -> Run:
    """Read the flags up to the image; what follows is the command."""
    made, rest = Run(), list(argv)
    while rest and rest[0].startswith("-"):
        for flag, value in _flags(rest, fail):
            made.flags.setdefault(flag, []).append(value)
    if not rest:
        fail(f"docker: 'docker run' requires at least 1 argument{_SEE}")
    made.image, made.command = rest[0], rest[1:]
    made.command = [*made.flags.get("--entrypoint", [])[-1:], *made.command]
    if not made.command:
        fail(f"{_DAEMON}no command specified")
    _take(made, fail)
    return made


def _flags(rest: list[str], fail: Callable[[str], NoReturn]) -> list[tuple[str, str]]:
    """Take one word off ``rest``, and its value; ``-it`` is two flags."""
    word = rest.pop(0)
    if re.fullmatch(r"-[it]{2,}", word):
        return [(_SHORT[f"-{letter}"], "") for letter in word[1:]]
    name, equals, glued = word.partition("=")
    flag = _SHORT.get(name, name)
    if flag not in _VALUES:
        kind = f"flag: {name}" if name.startswith("--") else f"shorthand flag: {name[1:2]!r} in {name}"
        fail(f"unknown {kind}{_SEE}")
    if not _VALUES[flag]:
        return [(flag, glued)]
    if equals:
        return [(flag, glued)]
    if not rest:
        fail(f"flag needs an argument: {name}{_SEE}")
    return [(flag, rest.pop(0))]


def _take(made: Run, fail: Callable[[str], NoReturn]) -> None:
    flags = made.flags
    made.rm, made.init = "--rm" in flags, "--init" in flags
    made.name, made.user = flags.get("--name", [""])[-1], flags.get("--user", [""])[-1]
    made.network, made.memory = flags.get("--network", ["bridge"])[-1], flags.get("--memory", [""])[-1]
    made.workdir, made.pull = flags.get("--workdir", ["/"])[-1], flags.get("--pull", ["missing"])[-1]
    if "--tty" in flags and not sys.stdin.isatty():
        fail("the input device is not a TTY")
    if "--name" in flags and not re.fullmatch(_NAME, made.name):
        fail(f"{_DAEMON}Invalid container name ({made.name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if made.pull not in ("always", "missing", "never"):
        fail(f'docker: invalid pull option: \'{made.pull}\': must be one of "always", "missing" or "never"')
    if made.network not in ("none", "bridge", "host"):
        fail(f"{_DAEMON}network {made.network} not found")
    if made.user and not re.fullmatch(r"\d+(:\d+)?|root", made.user):
        fail(f"{_DAEMON}unable to find user {made.user.partition(':')[0]}: no matching entries in passwd file")
    for flag in ("--memory", "--shm-size", "--memory-swap"):
        for value in flags.get(flag, []):
            _size(flag, value, fail)
    if not PurePosixPath(made.workdir).is_absolute():
        fail(f"{_DAEMON}the working directory '{made.workdir}' is invalid, it needs to be an absolute path")
    for value in flags.get("--volume", []):
        _mount(made, value, fail)
    for value in flags.get("--env", []):
        key, equals, text = value.partition("=")
        if equals or key in os.environ:
            made.environment[key] = text if equals else os.environ[key]


def _size(flag: str, value: str, fail: Callable[[str], NoReturn]) -> None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgBKMG]?)[bB]?", value)
    if not found:
        fail(f'invalid argument "{value}" for "{flag}" flag: invalid size: \'{value}\'{_SEE}')
    scale = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}[found[2].lower()]
    if flag == "--memory" and float(found[1]) * scale < 6 * 2**20:
        fail("docker: Error response from daemon: Minimum memory limit allowed is 6MB")


def _mount(made: Run, value: str, fail: Callable[[str], NoReturn]) -> None:
    parts = value.split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw", "z", "Z")):
        fail(f'docker: invalid spec: {value}: invalid volume specification: "{value}"')
    host, inside = parts[:2]
    if not PurePosixPath(inside).is_absolute():
        why = f"invalid mount path: '{inside}' mount path must be absolute"
        fail(f"{_DAEMON}invalid volume specification: '{value}': invalid mount config for type \"bind\": {why}")
    if not PurePosixPath(host).is_absolute():
        fail(
            f'{_DAEMON}create {host}: "{host}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    if any(m["container"] == inside for m in made.mounts):
        fail(f"{_DAEMON}Duplicate mount point: {inside}")
    made.mounts.append({"host": host, "container": inside, "read_only": parts[2:] == ["ro"]})
