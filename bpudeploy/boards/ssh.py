"""A board over SSH: commands, streams and files on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.base import Dialogue, Output, Reply
from bpudeploy.boards.connect import connected
from bpudeploy.errors import BoardError, ConnectionLost

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")
LOGIN = "login"
PIECE = 1 << 19
"""Bytes that are handed to the channel at a time."""
_STALL_S = 60.0
_LOGIN_S = 15.0
_READY = "bpudeploy"


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
            if done.returncode is None:
                raise ConnectionResetError("it ended before the command did")
            return Output(done.returncode, str(done.stdout or ""), str(done.stderr or ""))

        return self._do(work(), step, f"`{argv[0]}` did not end in {timeout:g} s")

    @contextmanager
    def converse(self, argv: Sequence[str], *, step: str) -> Iterator[Dialogue]:
        """See ``Board.converse``."""

        async def start() -> Any:
            return await self._connection.create_process(shlex.join(argv), encoding="utf-8", errors="replace")

        process = self._do(asyncio.wait_for(start(), _STALL_S), step, f"`{argv[0]}` did not start in {_STALL_S:g} s")
        try:
            yield _Talk(self, process, step)
        finally:
            self._end(process)

    def feed(self, argv: Sequence[str], pieces: Iterable[bytes], *, timeout: float, step: str) -> Reply:
        """See ``Board.feed``."""

        async def work() -> Reply:
            process = await self._connection.create_process(shlex.join(argv), encoding=None)
            try:
                with contextlib.suppress(BrokenPipeError):  # it has ended: its status says why
                    for piece in pieces:
                        process.stdin.write(piece)
                        await asyncio.wait_for(process.stdin.drain(), timeout)
                    process.stdin.write_eof()
                done = await asyncio.wait_for(process.wait(), timeout)
            finally:
                process.close()
            if done.returncode is None or (done.returncode == -1 and not done.exit_signal):
                raise ConnectionResetError("the channel was closed")
            assert isinstance(done.stdout, bytes) and isinstance(done.stderr, bytes)
            return Reply(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

        return self._do(work(), step, f"the transfer stalled: nothing moved for {timeout:g} s")

    def offers_sftp(self, *, step: str) -> bool:
        """Return whether the server has an SFTP subsystem; push does without.

        Raises:
            BoardError: the connection was lost.
        """

        async def work() -> bool:
            import asyncssh

            try:
                async with asyncio.timeout(_LOGIN_S):
                    async with self._connection.start_sftp_client():
                        return True
            except (asyncssh.SFTPError, asyncssh.ChannelOpenError):
                return False

        return self._do(work(), step, "its SFTP subsystem does not answer")

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
        except asyncssh.ChannelOpenError as error:
            raise BoardError(
                f"its server refuses to run a command: {error.reason}",
                board=self.name,
                step=step,
                hint="give this account a shell, and see MaxSessions in its sshd_config; or name another USER@",
            ) from error
        except (asyncssh.Error, OSError) as error:
            raise ConnectionLost(
                f"the connection was lost: {error}", board=self.name, step=step, hint="run again: push resumes safely"
            ) from error


class _Talk:
    """Implements ``boards.base.Dialogue`` for one process."""

    def __init__(self, board: SshBoard, process: Any, step: str) -> None:
        self._board, self._process, self._step = board, process, step

    def say(self, line: str) -> None:
        """See ``Dialogue.say``."""

        async def work() -> None:
            self._process.stdin.write(f"{line}\n")
            await asyncio.wait_for(self._process.stdin.drain(), _STALL_S)

        with contextlib.suppress(ConnectionLost):  # whether it or the connection has ended, the next ``hear`` tells
            self._board._do(work(), self._step, f"it takes no word for {_STALL_S:g} s")

    def hear(self, timeout: float) -> str | None:
        """See ``Dialogue.hear``."""
        silence = f"no word for {timeout:g} s"
        process = self._process
        line = self._board._do(asyncio.wait_for(process.stdout.readline(), timeout), self._step, silence)
        if line:
            return str(line).rstrip("\n")
        done = self._board._do(asyncio.wait_for(process.wait(), timeout), self._step, silence)
        if done.returncode == 0:
            return None
        said = "\n".join(str(done.stderr or "").strip().splitlines()[-5:])
        if done.exit_signal:
            reason = f"it was killed by SIG{done.exit_signal[0]}"
        elif done.returncode is None or done.returncode == -1:
            raise ConnectionLost(
                "the connection was lost", board=self._board.name, step=self._step, hint="is it on the network still?"
            )
        else:
            reason = f"it exited {done.returncode}"
        raise BoardError(
            f"{reason}: {said}" if said else reason,
            board=self._board.name,
            step=self._step,
            hint="see the board's own logs",
        )


def _devnull() -> int:
    import asyncssh

    return int(asyncssh.DEVNULL)


@contextmanager
def open_ssh(
    address: Address,
    *,
    name: str,
    python: str,
    root: PurePosixPath,
    identity: Identity | None = None,
    jump: Address | None = None,
) -> Iterator[SshBoard]:
    """Connect, see that the account runs commands and nothing else, and disconnect at the end.

    With no ``identity``: the user's own ~/.ssh/config, keys, agent and known_hosts. A host key that is
    unknown or has changed is refused, always, a jump host's too.

    Args:
        jump: a jump host, used where ~/.ssh/config names neither ProxyJump nor ProxyCommand for the board
            (``ProxyJump none`` there means directly).

    Raises:
        BoardError: refused, unknown or changed host key, no authentication, time-out; or, at the step ``login``,
            a shell that runs no commands or adds words of its own to what they say.
    """
    with connected(address, name=name, identity=identity, jump=jump) as (runner, connection):
        board = SshBoard(runner, connection, name, python, root)
        _greet(board)
        yield board


def _greet(board: SshBoard) -> None:
    """See that a command's output is the command's: every later answer is read as if it were."""
    out = board.run(["sh", "-c", f"echo {_READY}"], timeout=_LOGIN_S, step=LOGIN)
    before, found, after = out.stdout.partition(f"{_READY}\n")
    if not found:
        said = (out.stderr.strip() or out.stdout.strip() or f"exit status {out.status}").splitlines()[-1]
        raise BoardError(
            f"this account runs no commands: {said[:200]!r}",
            board=board.name,
            step=LOGIN,
            hint="give it a plain shell (`chsh -s /bin/sh`) and no ForceCommand, or name another USER@",
        )
    if before or after:
        raise BoardError(
            f"its login prints {(before + after).strip()[:200]!r} before every command's own output",
            board=board.name,
            step=LOGIN,
            hint="make that shell's start file silent: put `case $- in *i*) ;; *) return ;; esac` at the top of "
            f"~/.bashrc there (`bpudeploy boards shell {board.name}`)",
        )
