"""All deliberate errors: a message, its location, and a hint."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes, the same for every command."""

    OK = 0
    BUG = 1
    USER = 2
    STAGE = 3
    CHECK = 4
    BOARD = 5
    INTERRUPTED = 130


@dataclass(frozen=True)
class Mark:
    """A position in a text: file (or ``--set``), 1-based line and column."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class BpudeployError(Exception):
    """Base of all deliberate errors; only ``cli.main`` turns them into text and an exit code."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, where: Mark | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    @property
    def one_line(self) -> str:
        """The message, with the hint in parentheses."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(BpudeployError):
    """The command line or an API argument is wrong."""

    exit_code = ExitCode.USER


class SpecError(BpudeployError):
    """A recipe or target is invalid; ``others`` are further errors from the same pass."""

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
    """A stage failed: bad weights, a failed proof, a compiler error."""

    exit_code = ExitCode.STAGE


class StageContractError(StageError):
    """A stage violated its declaration: a bug in the stage, not in the recipe."""


class OutOfTime(BpudeployError):
    """A time limit was reached; finished steps are in the store."""

    exit_code = ExitCode.STAGE


class StoreError(BpudeployError):
    """The store is damaged, or cannot be written."""

    exit_code = ExitCode.STAGE


class BoardError(BpudeployError):
    """A board is unreachable, refused access, or failed at a named step."""

    exit_code = ExitCode.BOARD

    def __init__(self, message: str, *, board: str, step: str, hint: str | None = None) -> None:
        super().__init__(f"board {board!r}, {step}: {message}", hint=hint)
        self.board = board
        self.step = step


class ConnectionLost(BoardError):
    """The connection to a board was lost; processes on the board may have ended with it."""


class Unreachable(BoardError):
    """A board does not answer: it is off, not on the network, or has another address. Nothing was changed on it."""
