"""Host side of the agent on a board: one command at a time, answered by typed messages."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from bpudeploy.boards.base import Board, RemoteProcess
from bpudeploy.digest import Digest, digest_bytes
from bpudeploy.effects.blobs import upload_blob
from bpudeploy.effects.messages import MESSAGE, PROTOCOL, CommandDone, CommandFailed, Hello, Message, ModelLoaded
from bpudeploy.errors import BoardError
from bpudeploy.events import Event

_GRACE_S = 20.0
"""Extra time for the board to end a hanging command and report it, before the host gives up."""
_START_S = 120.0
_EXIT_S = 30.0
_AGENT = Path(__file__).parents[1] / "agent"
_PACKAGE = "bpudeploy_agent"
_MAIN = f"from {_PACKAGE}.main import main\n\nmain()\n"
M = TypeVar("M")


class Agent:
    """A running agent; made by ``agent_on``."""

    def __init__(self, board: Board, process: RemoteProcess, step: str) -> None:
        self._board, self._process, self._step = board, process, step
        hello = self._receive(_START_S)
        if not isinstance(hello, Hello):
            raise self.error(f"the agent did not start with protocol {PROTOCOL}")
        self.hello = hello

    def stream(self, verb: str, *, within: float, **fields: object) -> Iterator[Message]:
        """Send a command and yield its answers; the last is ``CommandDone``.

        Args:
            within: seconds without output after which the board ends the command.

        Raises:
            ConnectionLost: the connection broke; the agent and its processes end with it.
            BoardError: the command failed or hung, or the agent broke the protocol.
        """
        self._process.send(json.dumps({"do": verb, "within": within, **fields}))
        while True:
            message = self._receive(within + _GRACE_S)
            if isinstance(message, CommandFailed):
                raise BoardError(message.why, board=self._board.name, step=self._step, hint=message.hint)
            yield message
            if isinstance(message, CommandDone):
                return

    def request(self, verb: str, kind: type[M], *, within: float, **fields: object) -> M:
        """Send a command and return its only answer of type ``kind``.

        Raises:
            BoardError: as ``stream``, or there is not exactly one.
        """
        found = [message for message in self.stream(verb, within=within, **fields) if isinstance(message, kind)]
        if len(found) != 1:
            raise self.error(f"the agent answered `{verb}` with {len(found)} {kind.__name__} messages instead of one")
        return found[0]

    def load(
        self,
        subject: str,
        model: PurePosixPath,
        digest: Digest,
        runtime: str,
        samples: PurePosixPath,
        *,
        threads: int = 0,
        within: float,
    ) -> ModelLoaded:
        """Verify a binary on the board and load it together with the images to run.

        Args:
            subject: a name for the model; the protocol requires it.
            threads: CPU threads of the runtime; 0 for its default.

        Raises:
            BoardError: as ``stream``.
        """
        binary = {"subject": subject, "model": str(model), "sha256": digest, "runtime": runtime}
        return self.request("load", ModelLoaded, within=within, threads=threads, samples=str(samples), **binary)

    def close(self) -> None:
        """Have the agent restore the board's settings, and wait until it exits.

        Raises:
            BoardError: it does not.
        """
        for _ in self.stream("bye", within=_EXIT_S):
            pass
        while self._process.receive(_EXIT_S) is not None:
            pass

    def error(self, message: str) -> BoardError:
        """Return the error for a violation of the protocol."""
        hint = "does something on the board print to every login's output (.bashrc)?"
        return BoardError(message, board=self._board.name, step=self._step, hint=hint)

    def _receive(self, timeout: float) -> Message:
        text = self._process.receive(timeout)
        if text is None:
            raise self.error("the agent exited unexpectedly")
        try:
            return MESSAGE.validate_json(text)
        except ValidationError as error:
            raise self.error(f"invalid message from the agent: {text[:200]!r}") from error


@contextmanager
def agent_on(
    board: Board, emit: Callable[[Event], None], *, step: str, drivers: Mapping[str, Path] = {}
) -> Iterator[Agent]:
    """Upload the agent to the board if it is missing, and run it; at the end no process of it is left.

    Args:
        drivers: runtimes that the agent has no driver for, and the file of each.

    Raises:
        BoardError: it does not start, or has another version.
    """
    packed = packed_agent(tuple(drivers.items()))
    with tempfile.NamedTemporaryFile() as local:
        local.write(packed)
        local.flush()
        remote = upload_blob(board, Path(local.name), digest_bytes(packed), "zip", emit, step=step)
    with board.start([board.python, str(remote), "--root", str(board.root)], step=step) as process:
        agent = Agent(board, process, step)
        yield agent
        agent.close()


@cache
def packed_agent(drivers: tuple[tuple[str, Path], ...] = ()) -> bytes:
    """Return ``bpudeploy/agent`` as a zip with a ``__main__.py``; run it as ``python3 AGENT.zip --root ROOT``.

    Packing is reproducible, byte for byte.

    Args:
        drivers: runtimes that the agent has no driver for, and the file of each.
    """
    files = {f"{_PACKAGE}/{path.relative_to(_AGENT).as_posix()}": path.read_bytes() for path in _AGENT.rglob("*.py")}
    files |= {f"{_PACKAGE}/drivers/{runtime}.py": file.read_bytes() for runtime, file in drivers}
    files["__main__.py"] = _MAIN.encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # stored: zlib versions differ
            entry.create_system = 3  # Unix, on every platform
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return out.getvalue()
