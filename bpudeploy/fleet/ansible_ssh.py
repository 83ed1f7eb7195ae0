"""The jump host in the arguments that Ansible gives to ssh. Their values may hold secrets, and are never shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from bpudeploy.boards.address import Address
from bpudeploy.errors import UsageError

_WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"
"""Letters of ssh's options that take a value."""
_NOTHING_LOST = {"controlmaster", "controlpersist", "controlpath", "-S", "-q", "-v", "batchmode"}
"""Options that mean nothing to bpudeploy, which keeps one connection and asks for nothing."""
_CHECKS = {"stricthostkeychecking", "checkhostip"}


@dataclass(frozen=True)
class Way:
    """How a host is reached."""

    jump: str | None
    left_out: tuple[str, ...]
    """What the arguments say beyond that, without its values."""


def way_of(args: str) -> Way:
    """Read ``-J HOST``, ``-o ProxyJump=HOST`` and ``-o ProxyCommand="ssh -W %h:%p HOST"``; as in ssh, the first counts.

    What else there is, is left to ~/.ssh/config, and named in ``left_out``.
    """
    try:
        options = list(_options(shlex.split(args)))
    except ValueError:
        return Way(None, ("its SSH arguments cannot be read; write what they say in ~/.ssh/config",))
    jump: str | None = None
    decided = False
    left_out: list[str] = []
    for name, value in options:
        if name in _CHECKS:
            left_out.append(f"the option {name} is left out: bpudeploy checks host keys, always")
        elif name not in ("proxyjump", "proxycommand", *_NOTHING_LOST):
            left_out.append(f"{_named(name)} of its SSH arguments is left out; write it in ~/.ssh/config")
        elif name not in _NOTHING_LOST and not decided:
            decided = True
            jump = None if value.lower() == "none" else _jump(name, value)
            if jump is None and value.lower() != "none":
                what = (
                    "jump hosts are not one [USER@]HOST[:PORT]" if name == "proxyjump" else "ProxyCommand is left out"
                )
                left_out.append(f"its {what}; write it in ~/.ssh/config")
    return Way(jump, tuple(dict.fromkeys(left_out)))


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each option by its lower-case name and its value; one that has only a letter by that, as ``-C``."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or len(word) < 2:
            yield "", word
            continue
        at = next((i for i, letter in enumerate(word[1:], 1) if letter in _WITH_VALUE), None)
        for letter in word[1:at]:
            yield f"-{letter}", ""
        if at is None:
            continue
        value = word[at + 1 :] or next(rest, "")
        if word[at] == "o":
            name, _, after = re.sub(r"\s*=\s*|\s+", "=", value.strip(), count=1).partition("=")
            yield name.lower(), after.strip()
        else:
            yield {"J": "proxyjump"}.get(word[at], f"-{word[at]}"), value


def _jump(name: str, value: str) -> str | None:
    """Return the jump host that an option names, where it is one and nothing but that."""
    if name == "proxyjump":
        text = value.removeprefix("ssh://")
    else:
        try:
            text = _stdio_forward(shlex.split(value)) or ""
        except ValueError:  # a quotation without an end
            return None
    try:
        return str(Address.parse(text))
    except UsageError:
        return None


def _stdio_forward(words: list[str]) -> str | None:
    """Return ``USER@HOST:PORT`` of ``ssh -W %h:%p -p PORT -l USER HOST``, the old way to write a jump host."""
    if not words or words[0].rpartition("/")[2] != "ssh":
        return None
    host = port = user = None
    forwards = False
    for name, value in _options(words[1:]):
        if name == "" and host is None:
            host = value
        elif name == "-p":
            port = value
        elif name == "-l":
            user = value
        elif name == "-W":
            forwards = value in ("%h:%p", "[%h]:%p")
        elif name not in ("-q", "-T", "-x", "-a", "-n"):
            return None  # another command, or settings that ~/.ssh/config should have
    if host is None or not forwards:
        return None
    return (f"{user}@" if user and "@" not in host else "") + host + (f":{port}" if port else "")


def _named(name: str) -> str:
    known = re.fullmatch(r"-[A-Za-z]|[a-z]+", name)
    return f"the option {name}" if known else "a word"
