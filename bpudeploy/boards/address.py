"""Where a board is, and who we are to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.errors import UsageError

_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*))(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True)
class Address:
    """Where a board is. What is None comes from ~/.ssh/config, or SSH's defaults."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``[USER@]HOST[:PORT]``; HOST may be an alias of ~/.ssh/config, or [IPv6].

        Raises:
            UsageError: anything else.
        """
        found = _ADDRESS.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else None
        if not found or (port is not None and not 0 < port < 65536):
            raise UsageError(f"{text!r} is no board address", hint="write [USER@]HOST[:PORT], such as sunrise@rdk-1:22")
        return cls(found["v6"] or found["host"], found["user"], port)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}:{self.port}" if self.port else f"{user}{host}"


@dataclass(frozen=True)
class Identity:
    """Keys of our own instead of the user's: for the embedded board. Ignores ~/.ssh and agents."""

    client_key: Path
    host_key: str
    """The one public host key that is accepted, in OpenSSH's format."""
