"""The board's half: constant POSIX-sh scripts, sent whole and once; parameters travel beside them, never inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cache
from pathlib import Path

from bpudeploy.boards.base import Board
from bpudeploy.effects.hold import Hold
from bpudeploy.errors import BoardError

_FOLDER = Path(__file__).with_name("scripts")
_MARK = "@ "
TIMEOUT_S = 600.0
"""Of one script: it hashes binaries, on boards whose storage may be slow."""


class Script(StrEnum):
    """What can be asked of a board; each is a file in ``scripts/`` whose first line names its arguments."""

    BEGIN = "begin"
    INSTALL = "install"
    ROLLBACK = "rollback"
    TRUST = "trust"
    ABANDON = "abandon"
    RESERVE = "reserve"
    RELEASE = "release"


_BEFORE = {
    Script.BEGIN: ("common", "reserved"),
    Script.ROLLBACK: ("common", "reserved"),
    Script.RESERVE: ("common", "reserved", "queue"),
    Script.RELEASE: ("common", "reserved", "queue"),
}
"""The files that a script begins with, where it is more than ``common``."""


class Refusal(IntEnum):
    """Exit statuses with which a script says no."""

    NO_HASH = 40
    NO_VERIFIER = 41
    NO_TRUST = 42
    LOCK_LOST = 43
    DAMAGED = 44
    NOT_VOUCHED = 45
    MOVED = 46
    NO_PREVIOUS = 47
    OTHER_KEY = 48
    RESERVED = 49


_UNSIGNED = "or turn signing off in the target: board.signed: false"
_HINTS = {
    Refusal.NO_HASH: "install coreutils or busybox there",
    Refusal.NO_VERIFIER: f"install openssh-client 8.1 or newer there, {_UNSIGNED}",
    Refusal.NO_TRUST: f"`bpudeploy keys install` has it trust yours, {_UNSIGNED}",
    Refusal.LOCK_LOST: "see who deploys to it, then run again",
    Refusal.DAMAGED: "run again; is its disk failing?",
    Refusal.NOT_VOUCHED: "sign with a key that it trusts (--key), or have it trust yours: `bpudeploy keys install`",
    Refusal.MOVED: "see who deploys to it, then run again",
    Refusal.NO_PREVIOUS: "push the release that you want",
    Refusal.OTHER_KEY: "`--add` has it trust both, `--replace` yours alone",
}


@dataclass(frozen=True)
class Facts:
    """What a script said, by name; a name may have several values."""

    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, stdout: str) -> Facts:
        """Read the lines that are ours; a login's greeting is not."""
        found: dict[str, tuple[str, ...]] = {}
        for line in stdout.splitlines():
            if line.startswith(_MARK):
                name, _, value = line.removeprefix(_MARK).partition(" ")
                found[name] = (*found.get(name, ()), value)
        return cls(found)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def all(self, name: str) -> tuple[str, ...]:
        return self.values.get(name, ())

    def one(self, name: str, *, board: Board, step: str) -> str:
        """Return the first value.

        Raises:
            BoardError: it was not said.
        """
        if not self.all(name):
            raise BoardError(
                f"its answer says nothing of {name!r}", board=board.name, step=step, hint="is its login a POSIX shell?"
            )
        return self.all(name)[0]

    def number(self, name: str, *, board: Board, step: str) -> int:
        """Return the first value as a number.

        Raises:
            BoardError: it was not said, or is none.
        """
        said = self.one(name, board=board, step=step)
        try:
            return int(said)
        except ValueError as error:
            raise BoardError(f"{name} is {said!r} there", board=board.name, step=step, hint="this is a bug") from error


@cache
def text(script: Script) -> str:
    """Return the whole of a script."""
    return "".join((_FOLDER / f"{name}.sh").read_text() for name in (*_BEFORE.get(script, ("common",)), script))


def ask(board: Board, script: Script, arguments: Sequence[str], *, step: str) -> Facts:
    """Run a script in one round trip.

    Raises:
        Reserved: it says no, because somebody else has reserved it.
        BoardError: it says no (its hint says what to do about that), or fails.
    """
    out = board.run(["sh", "-c", text(script), "sh", *arguments], timeout=TIMEOUT_S, step=step)
    if out.ok:
        return Facts.parse(out.stdout)
    if out.status == Refusal.RESERVED:
        hold = Facts.parse(out.stdout).one("reserved", board=board, step=step)
        raise Hold.parse(hold).refusal(board=board.name, step=step)
    said = out.stderr.strip() or f"exit status {out.status}"
    hint = _HINTS[Refusal(out.status)] if out.status in list(Refusal) else None
    raise BoardError(
        said if hint else f"it could not {script}: {said}",
        board=board.name,
        step=step,
        hint=hint or f"check the space and permissions of {board.root} there",
    )
