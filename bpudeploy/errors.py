"""Everything bpudeploy raises on purpose: a message, where it is, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes, the same for every verb."""

    OK = 0
    BUG = 1
    USER = 2
    STAGE = 3
    CHECK = 4
    BOARD = 5
    INTERRUPTED = 130


@dataclass(frozen=True)
class Mark:
    """A place in a text: file (or ``--set``), 1-based line and column."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class BpudeployError(Exception):
    """Base of all deliberate errors; ``cli.main`` alone turns one into text and an exit code."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, where: Mark | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    @property
    def in_a_line(self) -> str:
        """The message, with what to do next in brackets."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(BpudeployError):
    """The command line asks for something that does not exist."""

    exit_code = ExitCode.USER


class SpecError(BpudeployError):
    """A recipe or target is wrong; ``others`` holds further errors found in the same pass."""

    exit_code = ExitCode.USER

    def __init__(
        self,
        message: str,
        *,
        where: Mark | None = None,
        hint: str | None = None,
        field: str | None = None,
        others: tuple[SpecError, ...] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.field = field
        self.others = others


class StageError(BpudeployError):
    """A stage could not do its work (bad weights, a failed proof, a compiler's error)."""

    exit_code = ExitCode.STAGE


class StageContractError(StageError):
    """A stage did something else than it declared: a bug in the stage, not in the recipe."""


class OutOfTime(BpudeployError):
    """The time that was given was over before this was done; what was done is in the store."""

    exit_code = ExitCode.STAGE


class StoreError(BpudeployError):
    """The store's bytes are not what their name says, or cannot be written."""

    exit_code = ExitCode.STAGE


class BoardError(BpudeployError):
    """A board is unreachable, refuses us, or failed at a named step."""

    exit_code = ExitCode.BOARD

    def __init__(self, message: str, *, board: str, step: str, hint: str | None = None) -> None:
        super().__init__(f"board {board!r}, {step}: {message}", hint=hint)
        self.board = board
        self.step = step


class ConnectionLost(BoardError):
    """The connection to a board ended in the middle; what ran there may have ended with it."""


class Unreachable(BoardError):
    """A board does not answer: it is off, or not on the network, or the address is not its own. It was not touched."""
