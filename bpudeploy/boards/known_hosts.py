"""known_hosts: which host keys are trusted, and how one is pinned there. A file that is missing trusts nobody."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.files import locked, replacing

if TYPE_CHECKING:
    import asyncssh

SSH_PORT = 22
_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


class Role(StrEnum):
    """What a line of known_hosts says of its key."""

    HOST = "host"
    AUTHORITY = "cert-authority"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Entry:
    """One line of known_hosts that is about the host in question."""

    file: Path
    line: int
    role: Role
    key: asyncssh.SSHKey

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def name_of(host: str, port: int | None) -> str:
    """Return the name under which known_hosts has a server: HOST, or [HOST]:PORT where the port is not 22."""
    host = host.lower()
    return host if port in (None, SSH_PORT) else f"[{host}]:{port}"


def entries(files: Sequence[Path], name: str) -> list[Entry]:
    """Return every entry about ``name``, plain, with wildcards or hashed; a line that is not one is passed over.

    Raises:
        OSError: a file is there and cannot be read.
    """
    return [entry for file in files for entry in _about(file, _lines(file), name)]


def trusted(
    files: Sequence[Path], host: str, port: int | None
) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    """Return the keys of a server, of authorities that may sign it, and the revoked, in asyncssh's form.

    As OpenSSH does, a server on a port of its own that has no key under that name is looked up by its host.
    The address that a host resolves to is not looked up: boards share addresses.
    """
    found = entries(files, name_of(host, port))
    if all(entry.role is Role.REVOKED for entry in found) and port not in (None, SSH_PORT):
        found += entries(files, name_of(host, None))
    host_keys, authorities, revoked = ([e.key for e in found if e.role is role] for role in Role)
    return host_keys, authorities, revoked


def algorithms(known: Sequence[asyncssh.SSHKey]) -> list[str]:
    """Return the kinds of host key to ask a server for: those that are known first, so that the known key is shown."""
    first = [algorithm.decode() for key in known for algorithm in key.sig_algorithms]
    return [one for one in dict.fromkeys([*first, *_ALGORITHMS]) if one in _ALGORITHMS]


def pin(file: Path, name: str, key: asyncssh.SSHKey, *, replace: bool) -> list[Entry]:
    """Write ``key`` as the key of ``name``, atomically; return what stands in its way: then nothing is written.

    With ``replace``, the name's other keys are taken out of this file; a line with wildcards is never changed.
    Folder and file are made as OpenSSH wants them (0700, 0600); an existing file keeps its mode.

    Raises:
        OSError: it cannot be written.
    """
    file = file.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(file.parent, wait=math.inf):
        lines = _lines(file)
        if replace:
            lines = [kept for line in lines if (kept := _without(line, name)) is not None]
        others = [e for e in _about(file, lines, name) if e.role is Role.HOST and e.key != key]
        if not others:
            _write(file, [*lines, f"{name} {key.export_public_key().decode().strip()}"])
    return others


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return text.removesuffix("\n").split("\n") if text else []


def _about(file: Path, lines: Sequence[str], name: str) -> Iterator[Entry]:
    import asyncssh

    for number, line in enumerate(lines, 1):
        try:
            found = asyncssh.import_known_hosts(line).match(name, "", None)
        except ValueError:
            continue  # as OpenSSH does
        for role, keys in zip(Role, found[:3], strict=True):
            yield from (Entry(file, number, role, key) for key in keys)


def _without(line: str, name: str) -> str | None:
    """Return a line without ``name``: None where nothing is left. Marked lines and wildcards stay as they are."""
    import asyncssh

    names, _, rest = line.strip().partition(" ")
    if names.startswith("|"):
        try:
            return None if any(asyncssh.import_known_hosts(line).match(name, "", None)) else line
        except ValueError:
            return line
    if name not in names.split(","):
        return line
    left = ",".join(one for one in names.split(",") if one != name)
    return f"{left} {rest}" if left else None


def _write(file: Path, lines: Sequence[str]) -> None:
    mode = file.stat().st_mode & 0o7777 if file.exists() else 0o600
    with replacing(file) as beside:
        beside.touch(mode)
        beside.chmod(mode)
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
