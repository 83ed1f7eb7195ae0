"""Boards over SSH: commands and streams on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.base import CommandOutput, RemoteProcess
from bpudeploy.boards.connect import connected
from bpudeploy.errors import BoardError, ConnectionLost

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")
LOGIN = "login"
CHUNK = 1 << 19
"""Bytes written to the channel at a time."""
_STALL_S = 60.0
_LOGIN_S = 15.0
_ECHO = "bpudeploy"


@dataclass(eq=False)
class SshBoard:
    """Implements ``boards.base.Board``; created by ``open_ssh``."""

    _runner: asyncio.Runner
    _connection: asyncssh.SSHClientConnection
    name: str
    python: str
    root: PurePosixPath

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> CommandOutput[str]:
        import asyncssh

        async def work() -> CommandOutput[str]:
            done = await self._connection.run(
                shlex.join(argv), timeout=timeout, encoding="utf-8", errors="replace", stdin=int(asyncssh.DEVNULL)
            )
            if done.returncode is None:
                raise ConnectionResetError("it ended before the command did")
            return CommandOutput(done.returncode, str(done.stdout or ""), str(done.stderr or ""))

        return self._run_async(work(), step, f"`{argv[0]}` did not finish within {timeout:g} s")

    @contextmanager
    def start(self, argv: Sequence[str], *, step: str) -> Iterator[RemoteProcess]:
        starting = self._connection.create_process(shlex.join(argv), encoding="utf-8", errors="replace")
        on_timeout = f"`{argv[0]}` did not start within {_STALL_S:g} s"
        process = self._run_async(asyncio.wait_for(starting, _STALL_S), step, on_timeout)
        try:
            yield _SshProcess(self, process, step)
        finally:
            self._end(process)

    def run_with_input(
        self, argv: Sequence[str], chunks: Iterable[bytes], *, timeout: float, step: str
    ) -> CommandOutput[bytes]:
        async def work() -> CommandOutput[bytes]:
            process = await self._connection.create_process(shlex.join(argv), encoding=None)
            try:
                with contextlib.suppress(BrokenPipeError):  # it has exited: the status says why
                    for chunk in chunks:
                        process.stdin.write(chunk)
                        await asyncio.wait_for(process.stdin.drain(), timeout)
                    process.stdin.write_eof()
                done = await asyncio.wait_for(process.wait(), timeout)
            finally:
                process.close()
            if done.returncode is None or (done.returncode == -1 and not done.exit_signal):
                raise ConnectionResetError("the channel was closed")
            assert isinstance(done.stdout, bytes) and isinstance(done.stderr, bytes)
            return CommandOutput(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

        return self._run_async(work(), step, f"the transfer stalled: no data sent for {timeout:g} s")

    def offers_sftp(self, *, step: str) -> bool:
        """Return whether the server has an SFTP subsystem; push does not need it.

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

        return self._run_async(work(), step, "its SFTP subsystem does not respond")

    def _end(self, process: Any) -> None:
        """Terminate the remote process and close its channel; the agent also exits when its input closes."""

        async def work() -> None:
            if process.exit_status is None and not process.is_closing():
                process.terminate()
            process.close()

        self._runner.run(work())

    def _run_async(self, work: Coroutine[Any, Any, T], step: str, on_timeout: str) -> T:
        import asyncssh

        try:
            return self._runner.run(work)
        except (TimeoutError, asyncssh.TimeoutError) as error:
            raise self.error(step, on_timeout, "is the board overloaded, hung or off the network?") from error
        except asyncssh.ChannelOpenError as error:
            hint = "give this account a shell, and see MaxSessions in its sshd_config; or name another USER@"
            raise self.error(step, f"its server refuses to run a command: {error.reason}", hint) from error
        except (asyncssh.Error, OSError) as error:
            message = f"the connection was lost: {error}"
            raise self.error(step, message, "run again: push resumes safely", ConnectionLost) from error

    def error(self, step: str, message: str, hint: str, kind: type[BoardError] = BoardError) -> BoardError:
        """Return an error of this board."""
        return kind(message, board=self.name, step=step, hint=hint)


class _SshProcess:
    """Implements ``boards.base.RemoteProcess``."""

    def __init__(self, board: SshBoard, process: Any, step: str) -> None:
        self._board, self._process, self._step = board, process, step

    def send(self, line: str) -> None:
        async def work() -> None:
            self._process.stdin.write(f"{line}\n")
            await asyncio.wait_for(self._process.stdin.drain(), _STALL_S)

        with contextlib.suppress(ConnectionLost):  # the next ``receive`` raises
            self._board._run_async(work(), self._step, f"it did not read its input for {_STALL_S:g} s")

    def receive(self, timeout: float) -> str | None:
        silence = f"no output for {timeout:g} s"
        process = self._process
        line = self._board._run_async(asyncio.wait_for(process.stdout.readline(), timeout), self._step, silence)
        if line:
            return str(line).rstrip("\n")
        done = self._board._run_async(asyncio.wait_for(process.wait(), timeout), self._step, silence)
        if done.returncode == 0:
            return None
        stderr = "\n".join(str(done.stderr or "").strip().splitlines()[-5:])
        if done.exit_signal:
            reason = f"it was killed by SIG{done.exit_signal[0]}"
        elif done.returncode is None or done.returncode == -1:
            hint = "is it still on the network?"
            raise self._board.error(self._step, "the connection was lost", hint, ConnectionLost)
        else:
            reason = f"it exited with status {done.returncode}"
        message = f"{reason}: {stderr}" if stderr else reason
        raise self._board.error(self._step, message, "see the board's own logs")


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
    """Connect, check that the account's shell runs commands cleanly, and disconnect on exit.

    Without ``identity``, uses the user's ~/.ssh/config, keys, agent and known_hosts. Unknown and changed host keys
    are always refused, for jump hosts too.

    Args:
        jump: jump host if ~/.ssh/config has neither ProxyJump nor ProxyCommand for the board (``ProxyJump none``
            connects directly).

    Raises:
        BoardError: as ``connected``; or, with the step ``login``, the shell runs no commands, or prints output of its
            own.
    """
    with connected(address, name=name, identity=identity, jump=jump) as (runner, connection):
        board = SshBoard(runner, connection, name, python, root)
        _check_shell(board)
        yield board


def _check_shell(board: SshBoard) -> None:
    """Check that a command's output is passed through unchanged: all later parsing relies on it."""
    out = board.run(["sh", "-c", f"echo {_ECHO}"], timeout=_LOGIN_S, step=LOGIN)
    before, found, after = out.stdout.partition(f"{_ECHO}\n")
    if not found:
        reason = (out.stderr.strip() or out.stdout.strip() or f"exit status {out.status}").splitlines()[-1]
        hint = "give it a plain shell (`chsh -s /bin/sh`) and no ForceCommand, or name another USER@"
        raise board.error(LOGIN, f"this account cannot run commands: {reason[:200]!r}", hint)
    if before or after:
        printed = (before + after).strip()[:200]
        raise board.error(
            LOGIN,
            f"its login shell prints {printed!r} around the output of every command",
            "silence the shell's startup file: put `case $- in *i*) ;; *) return ;; esac` at the top of "
            f"~/.bashrc there (`bpudeploy boards shell {board.name}`)",
        )
