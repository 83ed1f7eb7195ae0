"""Board addresses and SSH credentials."""

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
    """The address of a board. Fields that are None come from ~/.ssh/config or SSH's defaults."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``[USER@]HOST[:PORT]``; HOST may be an alias from ~/.ssh/config or an [IPv6] address.

        Raises:
            UsageError: anything else.
        """
        match = _ADDRESS.fullmatch(text)
        port = int(match["port"]) if match and match["port"] else None
        if not match or (port is not None and not 0 < port < 65536):
            raise UsageError(
                f"{text!r} is not a board address", hint="write [USER@]HOST[:PORT], such as sunrise@rdk-1:22"
            )
        return cls(match["v6"] or match["host"], match["user"], port)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}:{self.port}" if self.port else f"{user}{host}"


@dataclass(frozen=True)
class Identity:
    """The embedded board's own keys, used instead of ~/.ssh and the SSH agent."""

    client_key: Path
    host_key: str
    """The only accepted public host key, in OpenSSH format."""
