"""Constant POSIX sh scripts that run on the board; parameters are passed as arguments, never inserted into the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cache
from pathlib import Path

from bpudeploy.boards.base import Board
from bpudeploy.effects.reservation import Reservation
from bpudeploy.errors import BoardError

_FOLDER = Path(__file__).with_name("scripts")
_PREFIX = "@ "
TIMEOUT_S = 600.0
"""For one script: it hashes binaries, on boards with slow storage."""


class Script(StrEnum):
    """Operations on a board; each is a file in ``scripts/`` whose first line documents its arguments."""

    BEGIN = "begin"
    INSTALL = "install"
    ROLLBACK = "rollback"
    TRUST = "trust"
    ABANDON = "abandon"
    RESERVE = "reserve"
    RELEASE = "release"


_INCLUDES = {
    Script.BEGIN: ("common", "reserved"),
    Script.ROLLBACK: ("common", "reserved"),
    Script.RESERVE: ("common", "reserved", "queue"),
    Script.RELEASE: ("common", "reserved", "queue"),
}
"""The files that precede a script, if more than ``common``."""


class Refusal(IntEnum):
    """Exit statuses with which a script refuses."""

    NO_HASH = 40
    NO_VERIFIER = 41
    NO_TRUST = 42
    LOCK_LOST = 43
    DAMAGED = 44
    NOT_SIGNED = 45
    CURRENT_CHANGED = 46
    NO_PREVIOUS = 47
    OTHER_KEY = 48
    RESERVED = 49


_SIGNING_OFF = "or turn signing off in the target: board.signed: false"
_HINTS = {
    Refusal.NO_HASH: "install coreutils or busybox on the board",
    Refusal.NO_VERIFIER: f"install openssh-client 8.1 or newer on the board, {_SIGNING_OFF}",
    Refusal.NO_TRUST: f"install your key with `bpudeploy keys install`, {_SIGNING_OFF}",
    Refusal.LOCK_LOST: "check who else deploys to this board, then run again",
    Refusal.DAMAGED: "run again; if it fails again, check the board's disk",
    Refusal.NOT_SIGNED: "sign with a key that the board trusts (--key), or install yours: `bpudeploy keys install`",
    Refusal.CURRENT_CHANGED: "check who else deploys to this board, then run again",
    Refusal.NO_PREVIOUS: "push the wanted release",
    Refusal.OTHER_KEY: "`--add` trusts both keys, `--replace` only yours",
}


@dataclass(frozen=True)
class ScriptOutput:
    """The values that a script printed, by name; a name may have several."""

    board: Board
    step: str
    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, stdout: str, board: Board, step: str) -> ScriptOutput:
        """Parse the script's own lines; other output, such as a login greeting, is ignored."""
        found: dict[str, tuple[str, ...]] = {}
        for line in stdout.splitlines():
            if line.startswith(_PREFIX):
                name, _, value = line.removeprefix(_PREFIX).partition(" ")
                found[name] = (*found.get(name, ()), value)
        return cls(board, step, found)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def all(self, name: str) -> tuple[str, ...]:
        return self.values.get(name, ())

    def error(self, message: str, hint: str) -> BoardError:
        """Return an error with the names of the board and the step."""
        return BoardError(message, board=self.board.name, step=self.step, hint=hint)

    def one(self, name: str) -> str:
        """Return the first value.

        Raises:
            BoardError: there is none.
        """
        if not self.all(name):
            raise self.error(f"its answer has no {name!r}", "is the login shell a POSIX shell?")
        return self.all(name)[0]

    def number(self, name: str) -> int:
        """Return the first value as a number.

        Raises:
            BoardError: there is none, or it is not a number.
        """
        value = self.one(name)
        try:
            return int(value)
        except ValueError as error:
            raise self.error(f"{name} is {value!r}, expected a number", "this is a bug") from error


@cache
def script_text(script: Script) -> str:
    """Return a script's text, with the files that it includes."""
    return "".join((_FOLDER / f"{name}.sh").read_text() for name in (*_INCLUDES.get(script, ("common",)), script))


def run_script(board: Board, script: Script, arguments: Sequence[str], *, step: str) -> ScriptOutput:
    """Run a script in one round trip, with the board's root as its first argument.

    Raises:
        Reserved: somebody else has reserved the board.
        BoardError: the script refused or failed.
    """
    argv = ["sh", "-c", script_text(script), "sh", str(board.root), *arguments]
    out = board.run(argv, timeout=TIMEOUT_S, step=step)
    output = ScriptOutput.parse(out.stdout, board, step)
    if out.ok:
        return output
    if out.status == Refusal.RESERVED:
        raise Reservation.parse(output.one("reserved")).refusal(board=board.name, step=step)
    reason = out.stderr.strip() or f"exit status {out.status}"
    if out.status in list(Refusal):
        raise output.error(reason, _HINTS[Refusal(out.status)])
    raise output.error(f"{script} failed: {reason}", f"check the space and permissions of {board.root} on the board")
