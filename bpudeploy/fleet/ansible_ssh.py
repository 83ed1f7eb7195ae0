"""Find the jump host in Ansible's SSH arguments. Their values may contain secrets and are never shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from bpudeploy.boards.address import Address
from bpudeploy.errors import UsageError

_WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"
"""The options of ssh that take a value."""
_IGNORED = {"controlmaster", "controlpersist", "controlpath", "-S", "-q", "-v", "batchmode"}
"""Options without effect in bpudeploy, which keeps one connection and never prompts."""
_CHECKS = {"stricthostkeychecking", "checkhostip"}


@dataclass(frozen=True)
class SshArguments:
    """What bpudeploy reads from SSH arguments."""

    jump: str | None
    left_out: tuple[str, ...]
    """Warnings about all other options, without their values."""


def read_ssh_arguments(args: str) -> SshArguments:
    """Read ``-J HOST``, ``-o ProxyJump=HOST`` and ``-o ProxyCommand="ssh -W %h:%p HOST"``; as in ssh, the first counts.

    Other options belong into ~/.ssh/config and are named in ``left_out``.
    """
    try:
        options = list(_options(shlex.split(args)))
    except ValueError:
        return SshArguments(None, ("its SSH arguments cannot be parsed; move them to ~/.ssh/config",))
    jump: str | None = None
    found = False
    left_out: list[str] = []
    for name, value in options:
        if name in _CHECKS:
            left_out.append(f"option {name} is ignored: bpudeploy always checks host keys")
        elif name not in ("proxyjump", "proxycommand", *_IGNORED):
            what = f"option {name}" if re.fullmatch(r"-[A-Za-z]|[a-z]+", name) else "a word"
            left_out.append(f"{what} of its SSH arguments is ignored; move it to ~/.ssh/config")
        elif name not in _IGNORED and not found:
            found = True
            jump = None if value.lower() == "none" else _jump(name, value)
            if jump is None and value.lower() != "none":
                what = (
                    "ProxyJump is not one [USER@]HOST[:PORT]"
                    if name == "proxyjump"
                    else "ProxyCommand is not supported"
                )
                left_out.append(f"its {what}; move it to ~/.ssh/config")
    return SshArguments(jump, tuple(dict.fromkeys(left_out)))


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each option as its lower-case name, or letter such as ``-C``, and its value."""
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
    """Return the jump host of an option that specifies exactly one, and nothing else."""
    if name == "proxyjump":
        text = value.removeprefix("ssh://")
    else:
        try:
            text = _stdio_forward(shlex.split(value)) or ""
        except ValueError:  # an unterminated quote
            return None
    try:
        return str(Address.parse(text))
    except UsageError:
        return None


def _stdio_forward(words: list[str]) -> str | None:
    """Return ``USER@HOST:PORT`` of ``ssh -W %h:%p -p PORT -l USER HOST``, the form used before ProxyJump existed."""
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
            return None  # another command, or settings for ~/.ssh/config
    if host is None or not forwards:
        return None
    return (f"{user}@" if user and "@" not in host else "") + host + (f":{port}" if port else "")
