"""Who has reserved a board: what its link says, and the error that it is to everybody else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from bpudeploy.errors import BoardError

NO_END = datetime.max.replace(tzinfo=UTC)
"""No end is known."""
_DIGITS = 11
"""Of a time in seconds, at most; the scripts count them too."""
HINT = "`bpudeploy boards reserve` waits for it; or ask them"


class Reserved(BoardError):
    """Somebody else has reserved a board, or waits for it before us; nothing was changed there."""

    def __init__(self, message: str, *, board: str, step: str, hold: Hold) -> None:
        super().__init__(message, board=board, step=step, hint=HINT)
        self.hold = hold


@dataclass(frozen=True)
class Hold:
    """A reservation; ``until`` is by the board's own clock."""

    owner: str
    until: datetime
    why: str

    @classmethod
    def parse(cls, text: str) -> Hold:
        """Read a link's text, ``TOKEN UNTIL OWNER WHY``; one that is none of ours is all owner, and never ends."""
        _token, _, rest = text.partition(" ")
        until, _, rest = rest.partition(" ")
        owner, _, why = rest.partition(" ")
        if not (owner and until.isascii() and until.isdigit() and len(until) <= _DIGITS):
            return cls(clean(text), NO_END, "")
        return cls(clean(owner), datetime.fromtimestamp(int(until), UTC), clean(why))

    def __str__(self) -> str:
        until = "" if self.until == NO_END else f" until {self.until:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.owner} has reserved it{until}" + (f": {self.why}" if self.why else "")

    def refusal(self, *, board: str, step: str) -> Reserved:
        """Return the error that it is to everybody else."""
        return Reserved(str(self), board=board, step=step, hold=self)


def clean(text: str) -> str:
    """Return ``text`` as one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
