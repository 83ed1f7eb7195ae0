"""A board over SSH. The only client-side importer of asyncssh; host keys are always checked."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bpudeploy.boards.base import Output
from bpudeploy.errors import BoardError, UsageError

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")
CONNECT_TIMEOUT_S = 15.0
_KEEPALIVE_S = 15
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


@dataclass(frozen=True)
class Identity:
    """Keys of our own instead of the user's: for the embedded board. Ignores ~/.ssh and agents."""

    client_key: Path
    host_key: str
    """The one public host key that is accepted, in OpenSSH's format."""


class SshBoard:
    """Implements ``boards.base.Board``; made by ``open_ssh``."""

    def __init__(
        self,
        runner: asyncio.Runner,
        connection: asyncssh.SSHClientConnection,
        name: str,
        python: str,
        root: PurePosixPath,
    ) -> None:
        self.name = name
        self.python = python
        self.root = root
        self._runner = runner
        self._connection = connection

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> Output:
        """See ``Board.run``."""

        async def work() -> Output:
            done = await self._connection.run(
                shlex.join(argv), timeout=timeout, encoding="utf-8", errors="replace", stdin=_devnull()
            )
            status = done.returncode if done.returncode is not None else -1
            return Output(status, str(done.stdout or ""), str(done.stderr or ""))

        return self._do(work(), step, f"`{argv[0]}` did not end in {timeout:g} s")

    def stream(self, argv: Sequence[str], *, timeout: float, step: str) -> Iterator[str]:
        """See ``Board.stream``."""
        silence = f"no word for {timeout:g} s"

        async def start() -> Any:
            return await self._connection.create_process(shlex.join(argv), encoding="utf-8", errors="replace")

        process = self._do(asyncio.wait_for(start(), timeout), step, silence)
        try:
            while line := self._do(asyncio.wait_for(process.stdout.readline(), timeout), step, silence):
                yield line.rstrip("\n")
            done = self._do(asyncio.wait_for(process.wait(), timeout), step, silence)
            if done.returncode != 0:
                said = "\n".join(str(done.stderr or "").strip().splitlines()[-5:])
                if done.exit_signal:
                    reason = f"it was killed by SIG{done.exit_signal[0]}"
                elif done.returncode is None or done.returncode == -1:
                    reason = "the connection was lost"
                else:
                    reason = f"it exited {done.returncode}"
                raise BoardError(
                    f"{reason}: {said}" if said else reason, board=self.name, step=step, hint="see the board's own logs"
                )
        finally:
            self._end(process)

    def put(
        self, local: Path, remote: PurePosixPath, *, step: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """See ``Board.put``."""

        def handler(_source: bytes, _target: bytes, done: int, total: int) -> None:
            if progress:
                progress(done, total)

        async def work() -> None:
            async with self._connection.start_sftp_client() as sftp:
                await sftp.put(str(local), str(remote), progress_handler=handler)

        self._do(work(), step, "the transfer stalled")

    def _end(self, process: Any) -> None:
        """End the remote process: its input closes (our agent leaves then), and its channel with it."""

        async def work() -> None:
            if process.exit_status is None and not process.is_closing():
                process.terminate()
            process.close()

        self._runner.run(work())

    def _do(self, work: Awaitable[T], step: str, on_timeout: str) -> T:
        async def wrapped() -> T:
            return await work

        import asyncssh

        try:
            return self._runner.run(wrapped())
        except (TimeoutError, asyncssh.TimeoutError) as error:
            raise BoardError(
                on_timeout, board=self.name, step=step, hint="is the board busy, hung or off the network?"
            ) from error
        except asyncssh.SFTPError as error:
            raise BoardError(f"SFTP: {error.reason}", board=self.name, step=step, hint=_sftp_hint(error)) from error
        except (asyncssh.Error, OSError) as error:
            raise BoardError(
                f"the connection was lost: {error}", board=self.name, step=step, hint="run again: push resumes safely"
            ) from error


def _devnull() -> int:
    import asyncssh

    return int(asyncssh.DEVNULL)


def _sftp_hint(error: Exception) -> str:
    text = str(error).lower()
    if "space" in text or "quota" in text or text in ("failure", ""):
        return "is the board's disk full? `df -h` there tells"
    return "check the permissions of the target's board.root on the board"


@contextmanager
def open_ssh(
    address: Address, *, name: str, python: str, root: PurePosixPath, identity: Identity | None = None
) -> Iterator[SshBoard]:
    """Connect, and disconnect at the end.

    With no ``identity``: the user's own ~/.ssh/config, keys, agent and known_hosts. A host key that is
    unknown or has changed is refused, always.

    Raises:
        BoardError: refused, unknown or changed host key, no authentication, time-out.
    """
    with asyncio.Runner() as runner:
        try:
            connection = runner.run(_connect(address, identity))
        except Exception as error:
            _explain(error, address, name)
        board = SshBoard(runner, connection, name, python, root)
        try:
            yield board
        finally:
            runner.run(_disconnect(connection))


async def _connect(address: Address, identity: Identity | None) -> asyncssh.SSHClientConnection:
    import asyncssh

    options: dict[str, Any] = {"keepalive_interval": _KEEPALIVE_S, "login_timeout": CONNECT_TIMEOUT_S}
    if address.user is not None:
        options["username"] = address.user
    if address.port is not None:
        options["port"] = address.port
    if identity is not None:
        known = asyncssh.import_known_hosts(f"{address.host} {identity.host_key}\n")
        options |= {"known_hosts": known, "client_keys": [str(identity.client_key)], "agent_path": None, "config": None}
    elif not (Path.home() / ".ssh" / "known_hosts").exists():
        # Where the file does not exist asyncssh would check nothing; an empty list refuses everybody.
        options["known_hosts"] = asyncssh.import_known_hosts("")
    return await asyncssh.connect(address.host, connect_timeout=CONNECT_TIMEOUT_S, **options)


async def _disconnect(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    try:
        await asyncio.wait_for(connection.wait_closed(), 5)
    except TimeoutError:
        connection.abort()


def _explain(error: Exception, address: Address, name: str) -> NoReturn:
    """Raise the BoardError that says what went wrong and what to do."""
    import asyncssh

    port = f" -p {address.port}" if address.port else ""
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        message = f"its host key is not the known one, or is unknown: {error.reason}"
        hint = (
            f"compare fingerprints with the board's own screen, then `ssh{port} {address.host}` once to accept it "
            f"(after a re-install: `ssh-keygen -R {address.host}` first)"
        )
    elif isinstance(error, asyncssh.PermissionDenied):
        message, hint = (
            "it refuses our keys and user",
            "put your public key there with ssh-copy-id, or name another USER@",
        )
    elif isinstance(error, TimeoutError):
        message, hint = f"no answer in {CONNECT_TIMEOUT_S:g} s", "is it on, and on this network?"
    elif isinstance(error, asyncssh.Error | OSError):
        message, hint = f"cannot connect to {address.host}: {error}", "check the address, and that sshd runs there"
    else:
        raise error
    raise BoardError(message, board=name, step="connect", hint=hint) from error
