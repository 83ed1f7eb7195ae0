"""Read known_hosts files and pin host keys in them. A missing file trusts no host."""

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


class Marker(StrEnum):
    """Kind of a known_hosts line; the values but HOST are OpenSSH's markers."""

    HOST = "host"
    AUTHORITY = "cert-authority"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Entry:
    """One line of a known_hosts file that matches a host."""

    file: Path
    line: int
    marker: Marker
    key: asyncssh.SSHKey

    @property
    def location(self) -> str:
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{describe(self.key)} ({self.location})"


def describe(key: asyncssh.SSHKey) -> str:
    """Return a key's type and fingerprint as OpenSSH writes them: ``ED25519 SHA256:...``."""
    return f"{key.get_algorithm().removeprefix('ssh-').partition('-')[0].upper()} {key.get_fingerprint()}"


def name_of(host: str, port: int) -> str:
    """Return a server's name in known_hosts: HOST, or [HOST]:PORT if the port is not 22."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def entries(files: Sequence[Path], name: str) -> list[Entry]:
    """Return every entry for ``name``: plain, with wildcards or hashed. Malformed lines are skipped.

    Raises:
        OSError: a file exists but cannot be read.
    """
    return [entry for file in files for entry in _matching(file, _lines(file), name)]


def algorithms(known: Sequence[asyncssh.SSHKey]) -> list[str]:
    """Return host key algorithms to request, those of known keys first, so that the server offers a known key."""
    first = [algorithm.decode() for key in known for algorithm in key.sig_algorithms]
    return [name for name in dict.fromkeys([*first, *_ALGORITHMS]) if name in _ALGORITHMS]


def pin(file: Path, name: str, key: asyncssh.SSHKey, *, replace: bool) -> list[Entry]:
    """Add ``key`` for ``name``, atomically. If other keys remain for it, write nothing and return their entries.

    With ``replace``, other keys of ``name`` are removed from this file; lines with wildcards are never changed.
    A new folder and file get the modes that OpenSSH requires (0700, 0600); an existing file keeps its mode.

    Raises:
        OSError: it cannot be written.
    """
    file = file.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(file.parent, wait=math.inf):
        lines = _lines(file)
        if replace:
            lines = [rest for line in lines if (rest := _without(line, name)) is not None]
        others = [e for e in _matching(file, lines, name) if e.marker is Marker.HOST and e.key != key]
        if not others:
            _write(file, [*lines, f"{name} {key.export_public_key().decode().strip()}"])
    return others


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return text.removesuffix("\n").split("\n") if text else []


def _matching(file: Path, lines: Sequence[str], name: str) -> Iterator[Entry]:
    import asyncssh

    for number, line in enumerate(lines, 1):
        try:
            found = asyncssh.import_known_hosts(line).match(name, "", None)
        except ValueError:
            continue  # OpenSSH skips malformed lines too
        for marker, keys in zip(Marker, found[:3], strict=True):
            yield from (Entry(file, number, marker, key) for key in keys)


def _without(line: str, name: str) -> str | None:
    """Return a line without ``name``, or None if nothing is left. Lines with markers or wildcards are unchanged."""
    import asyncssh

    names, _, rest = line.strip().partition(" ")
    if names.startswith("|"):
        try:
            return None if any(asyncssh.import_known_hosts(line).match(name, "", None)) else line
        except ValueError:
            return line
    if name not in names.split(","):
        return line
    others = ",".join(other for other in names.split(",") if other != name)
    return f"{others} {rest}" if others else None


def _write(file: Path, lines: Sequence[str]) -> None:
    mode = file.stat().st_mode & 0o7777 if file.exists() else 0o600
    with replacing(file) as beside:
        beside.touch(mode)
        beside.chmod(mode)
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
