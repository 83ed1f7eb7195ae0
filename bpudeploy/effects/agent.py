"""The agent on a board, as the host sees it: one command at a time, answered in typed lines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from bpudeploy.boards.base import Board, RemoteProcess
from bpudeploy.digest import Digest, digest_bytes
from bpudeploy.effects.lines import LINE, PROTOCOL, Done, Failed, Hello, Line, Loaded
from bpudeploy.effects.packed import packed_agent
from bpudeploy.effects.place import place
from bpudeploy.errors import BoardError
from bpudeploy.events import Event

_GRACE_S = 20.0
"""By how much the host outlasts the board's own limit: who is nearer to what hangs ends it, and says so."""
_HELLO_S = 120.0
_BYE_S = 30.0
L = TypeVar("L")


class Agent:
    """A running agent; made by ``agent_on``."""

    def __init__(self, board: Board, process: RemoteProcess, step: str) -> None:
        self._board, self._process, self._step = board, process, step
        self.hello = self._first()

    def ask(self, verb: str, *, within: float, **fields: object) -> Iterator[Line]:
        """Yield what it answers to a command, ``Done`` last.

        Args:
            within: seconds of silence after which the board itself ends a command that hangs.

        Raises:
            ConnectionLost: it ended first, and with it all that ran there.
            BoardError: the board cannot, hangs, or says something that is not the protocol.
        """
        self._process.send(json.dumps({"do": verb, "within": within, **fields}))
        while True:
            line = self._hear(within + _GRACE_S)
            if isinstance(line, Failed):
                raise BoardError(line.why, board=self._board.name, step=self._step, hint=line.hint)
            yield line
            if isinstance(line, Done):
                return

    def told(self, verb: str, kind: type[L], *, within: float, **fields: object) -> L:
        """Return the one line of a kind that a command is answered with.

        Raises:
            BoardError: as ``ask``, or it is not among the answers.
        """
        found = [line for line in self.ask(verb, within=within, **fields) if isinstance(line, kind)]
        if len(found) != 1:
            raise self.error(f"it answered `{verb}` with {len(found)} of {kind.__name__}")
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
    ) -> Loaded:
        """Have it verify a binary on the board and load it, with the images that it is to see.

        Args:
            subject: what it is called in what the agent says of it.
            threads: CPU threads of the runtime; 0: its own choice.

        Raises:
            BoardError: as ``ask``.
        """
        given = {"subject": subject, "model": str(model), "sha256": digest, "runtime": runtime}
        return self.told("load", Loaded, within=within, threads=threads, samples=str(samples), **given)

    def leave(self) -> None:
        """Have it put everything back, and see it end.

        Raises:
            BoardError: it does not.
        """
        for _ in self.ask("bye", within=_BYE_S):
            pass
        while self._process.receive(_BYE_S) is not None:
            pass

    def error(self, message: str) -> BoardError:
        """Return the error for what the protocol does not allow."""
        hint = "does something on the board print to every login's output (.bashrc)?"
        return BoardError(message, board=self._board.name, step=self._step, hint=hint)

    def _first(self) -> Hello:
        line = self._hear(_HELLO_S)
        if not isinstance(line, Hello):
            raise self.error(f"the agent did not greet with protocol {PROTOCOL}")
        return line

    def _hear(self, timeout: float) -> Line:
        text = self._process.receive(timeout)
        if text is None:
            raise self.error("the agent ended too early")
        try:
            return LINE.validate_json(text)
        except ValidationError as error:
            raise self.error(f"the agent said {text[:200]!r}, which is not its protocol") from error


@contextmanager
def agent_on(board: Board, emit: Callable[[Event], None], *, step: str) -> Iterator[Agent]:
    """Bring the agent to the board, if it is not there, and start it; at the end nothing of it runs there.

    Raises:
        BoardError: it does not start, or is of another version.
    """
    packed = packed_agent()
    with tempfile.NamedTemporaryFile() as local:
        local.write(packed)
        local.flush()
        there = place(board, Path(local.name), digest_bytes(packed), "zip", emit, step=step)
    with board.start([board.python, str(there), "--root", str(board.root)], step=step) as process:
        agent = Agent(board, process, step)
        yield agent
        agent.leave()
