"""Connect to a board, through jump hosts if ~/.ssh/config names any; errors name the server that failed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpudeploy.boards import known_hosts
from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.settings import Settings, resolve
from bpudeploy.errors import BoardError, Unreachable, UsageError

if TYPE_CHECKING:
    import asyncssh

CONNECT = "connect"
_CLOSE_S = 5.0


@dataclass(frozen=True)
class SshServer:
    """A board, or a jump host on the route to it."""

    address: Address
    board: str
    is_jump_host: bool = False

    def error(self, message: str, hint: str, kind: type[BoardError] = BoardError) -> BoardError:
        """Return an error that names the board, and the jump host if this is one."""
        where = f"jump host {str(self.address)!r}: " if self.is_jump_host else ""
        return kind(f"{where}{message}", board=self.board, step=CONNECT, hint=hint)


@contextmanager
def connected(
    address: Address, *, name: str, identity: Identity | None = None, jump: Address | None = None
) -> Iterator[tuple[asyncio.Runner, asyncssh.SSHClientConnection]]:
    """Connect to a server; on exit, close the connection and those to the jump hosts.

    Args:
        jump: jump host to use if ~/.ssh/config has no ProxyJump or ProxyCommand for ``address``.

    Raises:
        BoardError: refused, timed out, unknown or changed host key, authentication failed, invalid SSH settings.
    """
    server = SshServer(address, name)
    with _jump_hosts(server, identity, jump) as (runner, settings, connections):
        connections.append(runner.run(_connect(server, settings, connections)))
        yield runner, connections[-1]


def offered_key(address: Address, *, name: str, jump: Address | None = None) -> tuple[Settings, asyncssh.SSHKey]:
    """Fetch a server's host key without trusting it; jump hosts must be trusted already.

    Args:
        jump: as for ``connected``.

    Raises:
        BoardError: as ``connected``, except for authentication.
    """
    server = SshServer(address, name)
    with _jump_hosts(server, None, jump) as (runner, settings, connections):
        return settings, runner.run(_fetch_key(server, settings, connections))


@contextmanager
def _jump_hosts(
    server: SshServer, identity: Identity | None, jump: Address | None
) -> Iterator[tuple[asyncio.Runner, Settings, list[asyncssh.SSHClientConnection]]]:
    """Connect to the jump hosts of a server; on exit, close these connections and those that the caller appended."""
    with asyncio.Runner() as runner:
        connections: list[asyncssh.SSHClientConnection] = []
        try:
            yield runner, runner.run(_connect_jump_hosts(server, connections, identity, jump)), connections
        finally:
            runner.run(_close(connections))


async def _connect_jump_hosts(
    server: SshServer,
    connections: list[asyncssh.SSHClientConnection],
    identity: Identity | None,
    jump: Address | None,
    visited: tuple[str, ...] = (),
) -> Settings:
    """Connect to the jump hosts of ``server``; as in OpenSSH, the first one's own jump hosts are used too."""
    settings = _resolve(server, identity, jump)
    for number, text in enumerate(settings.jumps):
        if text in (*visited, str(server.address), server.address.host):
            raise server.error(f"ProxyJump leads back to {text!r}", "give that host `ProxyJump none` in ~/.ssh/config")
        try:
            jump_host = SshServer(Address.parse(text), server.board, is_jump_host=True)
        except UsageError as error:
            raise server.error(
                f"ProxyJump names {text!r}", "write ProxyJump [USER@]HOST[:PORT] in ~/.ssh/config"
            ) from error
        if number == 0:
            its = await _connect_jump_hosts(jump_host, connections, None, None, (*visited, str(server.address)))
        else:
            its = _resolve(jump_host, None)
        connections.append(await _connect(jump_host, its, connections))
    return settings


def _resolve(server: SshServer, identity: Identity | None, jump: Address | None = None) -> Settings:
    import asyncssh

    try:
        return resolve(server.address, identity, jump)
    except asyncssh.ConfigParseError as error:
        raise server.error(f"invalid SSH settings: {error}", "correct that line") from error
    except (ValueError, OSError) as error:
        raise server.error(
            f"unusable SSH settings: {error}", "check ~/.ssh/config and the files that it names"
        ) from error


async def _connect(
    server: SshServer, settings: Settings, connections: list[asyncssh.SSHClientConnection]
) -> asyncssh.SSHClientConnection:
    import asyncssh

    offered: list[asyncssh.SSHKey] = []

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            offered.append(key)  # called for untrusted keys only: keep it for the error message, and refuse
            return False

    try:
        return await asyncssh.connect(client_factory=Client, **settings.options, **_tunnel(connections))
    except asyncssh.HostKeyNotVerifiable as error:
        raise _host_key_error(server, settings, offered, error) from error
    except asyncssh.PermissionDenied as error:
        raise server.error(
            f"it rejected your keys for user {settings.user!r}",
            f"install your public key with `ssh-copy-id {server.address}`, name another USER@, or add a key with a "
            "passphrase to the agent with `ssh-add`; bpudeploy uses no passwords",
        ) from error
    except (TimeoutError, asyncssh.Error, OSError, ValueError) as error:
        raise _connection_error(server, settings, error) from error


async def _fetch_key(
    server: SshServer, settings: Settings, connections: list[asyncssh.SSHClientConnection]
) -> asyncssh.SSHKey:
    import asyncssh

    algorithms = known_hosts.algorithms([entry.key for entry in settings.known])
    options = {key: value for key, value in settings.options.items() if key in ("host", "port", "config")}
    try:
        request = asyncssh.get_server_host_key(**options, **_tunnel(connections), server_host_key_algs=algorithms)
        key = await asyncio.wait_for(request, settings.timeout_s)
    except (TimeoutError, asyncssh.Error, OSError, ValueError) as error:
        raise _connection_error(server, settings, error) from error
    if key is None:
        raise server.error("it has no host key", "bpudeploy needs a server that has one")
    return key


def _tunnel(connections: list[asyncssh.SSHClientConnection]) -> dict[str, Any]:
    """Return the option to tunnel through our last connection; otherwise asyncssh connects to the ProxyJump itself."""
    return {"tunnel": connections[-1]} if connections else {}


def _host_key_error(
    server: SshServer, settings: Settings, offered: list[asyncssh.SSHKey], error: Exception
) -> BoardError:
    shown = f"the server offers {known_hosts.describe(offered[0])}" if offered else str(error)
    if "revoked" in str(error):
        return server.error("its host key is revoked in known_hosts", "do not connect: that key is stolen or retired")
    if settings.known:
        expected = ", ".join(map(str, settings.known))
        return server.error(
            f"its host key has changed: expected {expected}, {shown}",
            "this is another machine, or the board was reinstalled. Compare with `ssh-keygen -lf "
            "/etc/ssh/ssh_host_ed25519_key.pub` on the board's own screen, then "
            f"`bpudeploy boards trust {server.address} --replace`",
        )
    jump = f"add `ProxyJump {settings.jumps[0]}` for it to ~/.ssh/config; then " if settings.jump_from_caller else ""
    return server.error(
        f"its host key is unknown: {shown}",
        f"{jump}`bpudeploy boards trust {server.address}` shows the fingerprint to compare with the board's, and pins "
        "the key",
    )


def _connection_error(server: SshServer, settings: Settings, error: Exception) -> BoardError:
    endpoint = f"{settings.host}, port {settings.port}"
    text = str(error) or type(error).__name__
    if "too many authentication failures" in text.lower():
        return server.error(
            "too many authentication failures: it disconnected before the right key was offered",
            "name the one key for this host in ~/.ssh/config, with IdentityFile and IdentitiesOnly yes",
        )
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return server.error(f"unusable SSH settings: {text}", "check the key files that ~/.ssh/config names")
    message, hint = f"cannot connect to {endpoint}: {text}", "check the address, and that sshd runs there"
    if isinstance(error, TimeoutError):
        message = f"no answer from {endpoint} within {settings.timeout_s:g} s"
        hint = "is it on, on this network, and is that the SSH port?"
    elif isinstance(error, socket.gaierror):
        message = f"cannot resolve the host name {settings.host!r}"
        hint = "check the spelling, or give its IP address"
    elif isinstance(error, ConnectionRefusedError):
        message = f"connection refused by {endpoint}"
    return server.error(message, hint, Unreachable)


async def _close(connections: list[asyncssh.SSHClientConnection]) -> None:
    for connection in reversed(connections):
        connection.close()
        try:
            await asyncio.wait_for(connection.wait_closed(), _CLOSE_S)
        except TimeoutError:
            connection.abort()
