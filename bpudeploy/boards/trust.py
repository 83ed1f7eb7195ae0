"""Pinning a board's host key: what it offers, what is known, and the one step from the one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.boards import known_hosts
from bpudeploy.boards.address import Address
from bpudeploy.boards.connect import kind_of, offered_key
from bpudeploy.boards.known_hosts import Role
from bpudeploy.errors import BoardError, UsageError

if TYPE_CHECKING:
    import asyncssh

STEP = "trust"


class Standing(StrEnum):
    """How an offered key stands to known_hosts."""

    TRUSTED = "trusted"
    UNKNOWN = "unknown"
    CHANGED = "changed"


@dataclass(frozen=True)
class Known:
    """A key that known_hosts has for the host."""

    kind: str
    fingerprint: str
    place: str


@dataclass(frozen=True)
class Offer:
    """A host key as a server showed it; nobody trusts it for that."""

    board: str
    name: str
    """Under which known_hosts has the server, or would."""
    kind: str
    fingerprint: str
    """``SHA256:...``, as ``ssh-keygen -lf`` prints it."""
    standing: Standing
    known: tuple[Known, ...]
    file: Path
    """Where the key is pinned."""
    key: asyncssh.SSHKey


def offer(address: Address) -> Offer:
    """Fetch a server's host key without trusting it.

    Raises:
        BoardError: it cannot be reached; its key is revoked; the user's settings keep no known_hosts.
    """
    board = str(address)
    found, key = offered_key(address, name=board)
    try:
        entries = known_hosts.entries(found.files, found.name)
    except OSError as error:
        raise _cannot(board, "read", error) from error
    if any(e.role is Role.REVOKED and e.key == key for e in entries):
        raise BoardError(
            "it offers a key that known_hosts revokes",
            board=board,
            step=STEP,
            hint="do not connect: that key is stolen",
        )
    if found.pins is None:
        raise BoardError(
            "your SSH settings keep no known_hosts (UserKnownHostsFile)",
            board=board,
            step=STEP,
            hint="name a file there, in ~/.ssh/config",
        )
    hosts = [e for e in entries if e.role is Role.HOST]
    standing = Standing.CHANGED if hosts else Standing.UNKNOWN
    if any(e.key == key for e in hosts):
        standing = Standing.TRUSTED
    known = tuple(Known(kind_of(e.key), e.key.get_fingerprint(), e.place) for e in hosts)
    return Offer(board, found.name, kind_of(key), key.get_fingerprint(), standing, known, found.pins, key)


def require_fingerprint(made: Offer, fingerprint: str) -> None:
    """See that an offered key is the one that was asked for.

    Raises:
        UsageError: ``fingerprint`` is not one in OpenSSH's form.
        BoardError: the board offers another key.
    """
    wanted = fingerprint.removesuffix("=")
    if not wanted.startswith("SHA256:") or len(wanted) != len(made.fingerprint):
        raise UsageError(f"{fingerprint!r} is no fingerprint", hint="give it as `ssh-keygen -lf` prints it: SHA256:...")
    if wanted != made.fingerprint:
        raise BoardError(
            f"it offers {made.kind} {made.fingerprint}, not {wanted}; nothing is trusted",
            board=made.board,
            step=STEP,
            hint="another machine answers at this address, or the fingerprint is that of another key of the board",
        )


def pin(made: Offer, *, replace: bool = False) -> None:
    """Write an offered key to known_hosts, after its fingerprint was compared.

    Raises:
        BoardError: another key is known and ``replace`` is not given, or it cannot be taken out, or nothing written.
    """
    if made.standing is Standing.TRUSTED:
        return
    if made.standing is Standing.CHANGED and not replace:
        raise BoardError(
            f"another key is known: {_listed(made.known)}; it offers {made.kind} {made.fingerprint}",
            board=made.board,
            step=STEP,
            hint="if the board was installed anew, add --replace",
        )
    elsewhere = [k for k in made.known if Path(k.place.rpartition(":")[0]) != made.file]
    try:
        left = [] if elsewhere else known_hosts.pin(made.file, made.name, made.key, replace=replace)
    except OSError as error:
        raise _cannot(made.board, "write", error) from error
    if elsewhere or left:
        places = ", ".join([k.place for k in elsewhere] + [e.place for e in left])
        raise BoardError(
            f"another key stands in {places}, which is not ours to change; nothing is written",
            board=made.board,
            step=STEP,
            hint="take it out there",
        )


def _listed(known: tuple[Known, ...]) -> str:
    return ", ".join(f"{k.kind} {k.fingerprint} ({k.place})" for k in known)


def _cannot(board: str, what: str, error: OSError) -> BoardError:
    return BoardError(
        f"cannot {what} known_hosts: {error.strerror}: {error.filename}",
        board=board,
        step=STEP,
        hint="it must be yours, in a folder of yours",
    )
