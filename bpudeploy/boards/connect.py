"""Connects to a board, through jump hosts where ~/.ssh/config names some, and says what went wrong where it did."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpudeploy.boards import known_hosts
from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.known_hosts import Entry, Role
from bpudeploy.boards.settings import Settings, settings
from bpudeploy.errors import BoardError, Unreachable, UsageError

if TYPE_CHECKING:
    import asyncssh

CONNECT = "connect"
_CLOSE_S = 5.0


@dataclass(frozen=True)
class Hop:
    """One server on the way to a board, the board included."""

    address: Address
    board: str
    jump: bool

    def error(self, message: str, hint: str) -> BoardError:
        """Return the error that names the board, and the jump host where it is one's."""
        return BoardError(self._through(message), board=self.board, step=CONNECT, hint=hint)

    def silence(self, message: str, hint: str) -> Unreachable:
        """Return the error for a server that does not answer."""
        return Unreachable(self._through(message), board=self.board, step=CONNECT, hint=hint)

    def _through(self, message: str) -> str:
        return f"jump host {str(self.address)!r}: {message}" if self.jump else message


@contextmanager
def connected(
    address: Address, *, name: str, identity: Identity | None = None, jump: Address | None = None
) -> Iterator[tuple[asyncio.Runner, asyncssh.SSHClientConnection]]:
    """Connect, and disconnect at the end, jump hosts too.

    Args:
        jump: a jump host, where ~/.ssh/config does not say how ``address`` is reached.

    Raises:
        BoardError: refused, no answer in time, unknown or changed host key, no authentication, wrong settings.
    """
    with asyncio.Runner() as runner:
        way: list[asyncssh.SSHClientConnection] = []
        try:
            runner.run(_travel(Hop(address, name, False), way, identity, jump))
            yield runner, way[-1]
        finally:
            runner.run(_close(way))


def offered_key(address: Address, *, name: str, jump: Address | None = None) -> tuple[Settings, asyncssh.SSHKey]:
    """Fetch the host key that a server offers, and trust nothing; jump hosts on the way must be trusted.

    Args:
        jump: as for ``connected``.

    Raises:
        BoardError: as ``connected``, for what comes before authentication.
    """

    async def fetch() -> tuple[Settings, asyncssh.SSHKey]:
        way: list[asyncssh.SSHClientConnection] = []
        hop = Hop(address, name, False)
        try:
            found = await _to_the_door(hop, way, None, jump)
            return found, await _fetch(hop, found, way[-1] if way else None)
        finally:
            await _close(way)

    with asyncio.Runner() as runner:
        return runner.run(fetch())


async def _travel(
    hop: Hop, way: list[asyncssh.SSHClientConnection], identity: Identity | None, jump: Address | None
) -> None:
    """Connect to ``hop`` through its own jump hosts, adding each connection to ``way``."""
    found = await _to_the_door(hop, way, identity, jump)
    way.append(await _connect(hop, found, way[-1] if way else None))


async def _to_the_door(
    hop: Hop,
    way: list[asyncssh.SSHClientConnection],
    identity: Identity | None,
    jump: Address | None,
    seen: tuple[str, ...] = (),
) -> Settings:
    """Connect to the jump hosts on the way to ``hop``. The first's own jump hosts count, as OpenSSH has it."""
    found = _settings(hop, identity, jump)
    for number, text in enumerate(found.jumps):
        if text in (*seen, str(hop.address), hop.address.host):
            raise hop.error(f"ProxyJump leads back to {text!r}", "give that host `ProxyJump none` in ~/.ssh/config")
        try:
            bastion = Hop(Address.parse(text), hop.board, True)
        except UsageError as error:
            raise hop.error(
                f"ProxyJump names {text!r}", "write ProxyJump [USER@]HOST[:PORT] in ~/.ssh/config"
            ) from error
        if number == 0:
            at = await _to_the_door(bastion, way, None, None, (*seen, str(hop.address)))
        else:
            at = _settings(bastion, None)
        way.append(await _connect(bastion, at, way[-1] if way else None))
    return found


def _settings(hop: Hop, identity: Identity | None, jump: Address | None = None) -> Settings:
    import asyncssh

    try:
        return settings(hop.address, identity, jump)
    except asyncssh.ConfigParseError as error:
        raise hop.error(f"its SSH settings are wrong: {error}", "correct that line") from error
    except (ValueError, OSError) as error:
        raise hop.error(
            f"its SSH settings cannot be used: {error}", "look at ~/.ssh/config and the files that it names"
        ) from error


async def _connect(
    hop: Hop, found: Settings, through: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    import asyncssh

    offered: list[asyncssh.SSHKey] = []

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            offered.append(key)  # asked only about a key that is not trusted: remembered for the error, and refused
            return False

    try:
        return await asyncssh.connect(client_factory=Client, **found.options, **_through(through))
    except asyncssh.HostKeyNotVerifiable as error:
        raise _distrust(hop, found, offered, error) from error
    except asyncssh.PermissionDenied as error:
        raise hop.error(
            f"it refuses our keys for user {found.user!r}",
            f"put your public key there with `ssh-copy-id {hop.address}`, name another USER@, or give a key that has "
            "a passphrase to the agent with `ssh-add`; bpudeploy uses no passwords",
        ) from error
    except (TimeoutError, asyncssh.Error, OSError, ValueError) as error:
        raise _unreached(hop, found, error) from error


async def _fetch(hop: Hop, found: Settings, through: asyncssh.SSHClientConnection | None) -> asyncssh.SSHKey:
    import asyncssh

    algorithms = known_hosts.algorithms([e.key for e in _known(found) if e.role is Role.HOST])
    given = {key: value for key, value in found.options.items() if key in ("host", "port", "config")}
    try:
        fetched = asyncssh.get_server_host_key(**given, **_through(through), server_host_key_algs=algorithms)
        key = await asyncio.wait_for(fetched, found.timeout_s)
    except (TimeoutError, asyncssh.Error, OSError, ValueError) as error:
        raise _unreached(hop, found, error) from error
    if key is None:
        raise hop.error("it shows no host key", "bpudeploy needs a server that has one")
    return key


def _through(connection: asyncssh.SSHClientConnection | None) -> dict[str, Any]:
    """Return what has asyncssh go through a connection of ours, and not make one from ProxyJump by itself."""
    return {} if connection is None else {"tunnel": connection}


def _known(found: Settings) -> list[Entry]:
    return known_hosts.entries(found.files, found.name)


def _distrust(hop: Hop, found: Settings, offered: list[asyncssh.SSHKey], error: Exception) -> BoardError:
    shown = f"{_in_words(offered[0])} is offered" if offered else str(error)
    known = [e for e in _known(found) if e.role is Role.HOST]
    if "revoked" in str(error):
        return hop.error("its host key is revoked in known_hosts", "that key is stolen or retired: do not connect")
    if known:
        was = ", ".join(f"{_in_words(e.key)} ({e.place})" for e in known)
        return hop.error(
            f"its host key has changed: {was} is known, {shown}",
            "another machine answers, or the board was installed anew. Compare with `ssh-keygen -lf "
            "/etc/ssh/ssh_host_ed25519_key.pub` on the board's own screen, then "
            f"`bpudeploy boards trust {hop.address} --replace`",
        )
    first = f"write `ProxyJump {found.jumps[0]}` for it in ~/.ssh/config; then " if found.told else ""
    return hop.error(
        f"its host key is unknown: {shown}",
        f"{first}`bpudeploy boards trust {hop.address}` shows the fingerprint, to compare with the board's, and pins "
        "the key",
    )


def kind_of(key: asyncssh.SSHKey) -> str:
    """Return a key's kind as OpenSSH writes it: ED25519, ECDSA, RSA."""
    return key.get_algorithm().removeprefix("ssh-").partition("-")[0].upper()


def _in_words(key: asyncssh.SSHKey) -> str:
    return f"{kind_of(key)} {key.get_fingerprint()}"


def _unreached(hop: Hop, found: Settings, error: Exception) -> BoardError:
    where = f"{found.host}, port {found.port}"
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return hop.silence(
            f"no answer from {where} in {found.timeout_s:g} s", "is it on, on this network, and is that SSH's port?"
        )
    if isinstance(error, socket.gaierror):
        return hop.silence(f"the name {found.host!r} leads nowhere", "check the spelling, or give its IP address")
    if isinstance(error, ConnectionRefusedError):
        return hop.silence(f"nothing listens at {where}", "check the address, and that sshd runs there")
    if "too many authentication failures" in text.lower():
        return hop.error(
            "it refuses us before the right key came up: too many keys were offered",
            "name the one key for this host in ~/.ssh/config, with IdentityFile and IdentitiesOnly yes",
        )
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return hop.error(f"its SSH settings cannot be used: {text}", "look at the key files that ~/.ssh/config names")
    return hop.silence(f"cannot connect to {where}: {text}", "check the address, and that sshd runs there")


async def _close(way: list[asyncssh.SSHClientConnection]) -> None:
    for connection in reversed(way):
        connection.close()
        try:
            await asyncio.wait_for(connection.wait_closed(), _CLOSE_S)
        except TimeoutError:
            connection.abort()
