"""Pin a board's host key in known_hosts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.boards import known_hosts
from bpudeploy.boards.address import Address
from bpudeploy.boards.connect import offered_key
from bpudeploy.boards.known_hosts import Entry, Marker
from bpudeploy.errors import BoardError, UsageError

if TYPE_CHECKING:
    import asyncssh

STEP = "trust"


class KeyStatus(StrEnum):
    """Status of an offered host key in known_hosts."""

    TRUSTED = "trusted"
    UNKNOWN = "unknown"
    CHANGED = "changed"


@dataclass(frozen=True)
class OfferedKey:
    """A host key that a server offers; not trusted yet."""

    board: str
    name: str
    """The server's name in known_hosts."""
    kind: str
    fingerprint: str
    """``SHA256:...``, as printed by ``ssh-keygen -lf``."""
    status: KeyStatus
    known: tuple[Entry, ...]
    file: Path
    """The known_hosts file to pin the key in."""
    key: asyncssh.SSHKey


def fetch_host_key(address: Address) -> OfferedKey:
    """Fetch a server's host key without trusting it.

    Raises:
        BoardError: the server is unreachable; its key is revoked; the user's settings have no known_hosts file.
    """
    board = str(address)
    settings, key = offered_key(address, name=board)
    if any(e.marker is Marker.REVOKED and e.key == key for e in settings.entries):
        raise _error(
            board, "it offers a key that is revoked in known_hosts", "do not connect: that key is stolen or retired"
        )
    if settings.pin_file is None:
        raise _error(
            board,
            "your SSH settings have no known_hosts file (UserKnownHostsFile)",
            "set UserKnownHostsFile to a file in ~/.ssh/config",
        )
    known = tuple(settings.known)
    status = KeyStatus.CHANGED if known else KeyStatus.UNKNOWN
    if any(e.key == key for e in known):
        status = KeyStatus.TRUSTED
    kind, fingerprint = known_hosts.describe(key).split()
    return OfferedKey(board, settings.known_hosts_name, kind, fingerprint, status, known, settings.pin_file, key)


def require_fingerprint(offered: OfferedKey, fingerprint: str) -> None:
    """Check that an offered key has the expected fingerprint.

    Raises:
        UsageError: ``fingerprint`` is not in OpenSSH format.
        BoardError: the board offers another key.
    """
    wanted = fingerprint.removesuffix("=")
    if not wanted.startswith("SHA256:") or len(wanted) != len(offered.fingerprint):
        raise UsageError(f"{fingerprint!r} is not a fingerprint", hint="copy it from `ssh-keygen -lf`: SHA256:...")
    if wanted != offered.fingerprint:
        raise _error(
            offered.board,
            f"it offers {offered.kind} {offered.fingerprint}, not {wanted}; nothing is trusted",
            "this is another machine, or the fingerprint is that of another of the board's keys",
        )


def pin(offered: OfferedKey, *, replace: bool = False) -> None:
    """Add an offered key to known_hosts; its fingerprint must have been verified.

    Raises:
        BoardError: another key is known and ``replace`` is not set, that key cannot be removed, or writing failed.
    """
    if offered.status is KeyStatus.TRUSTED:
        return
    if offered.status is KeyStatus.CHANGED and not replace:
        known = ", ".join(map(str, offered.known))
        message = f"known_hosts has another key: {known}; it offers {offered.kind} {offered.fingerprint}"
        raise _error(offered.board, message, "if the board was reinstalled, add --replace")
    blocking = [e for e in offered.known if e.file != offered.file]
    try:
        blocking = blocking or known_hosts.pin(offered.file, offered.name, offered.key, replace=replace)
    except OSError as error:
        message = f"cannot write known_hosts: {error.strerror}: {error.filename}"
        raise _error(offered.board, message, "you must own the file and its folder") from error
    if blocking:
        places = ", ".join(e.location for e in blocking)
        message = f"another key is in {places}, which bpudeploy does not change; nothing is written"
        raise _error(offered.board, message, "remove it there")


def _error(board: str, message: str, hint: str) -> BoardError:
    return BoardError(message, board=board, step=STEP, hint=hint)
