"""A reservation of a board as its link stores it, and the error for everybody else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from bpudeploy.errors import BoardError

NO_END = datetime.max.replace(tzinfo=UTC)
"""The end is not known."""
_DIGITS = 11
"""Maximum digits of a time in seconds; the scripts have the same limit."""


class Reserved(BoardError):
    """Somebody else has reserved the board, or is ahead in its queue; nothing was changed on it."""

    def __init__(self, message: str, *, board: str, step: str, reservation: Reservation) -> None:
        hint = "wait for it with `bpudeploy boards reserve`, or ask its holder"
        super().__init__(message, board=board, step=step, hint=hint)
        self.reason = message
        self.reservation = reservation


@dataclass(frozen=True)
class Reservation:
    """A reservation; ``until`` is in the board's time."""

    owner: str
    until: datetime
    why: str

    @classmethod
    def parse(cls, text: str) -> Reservation:
        """Parse a link's text, ``TOKEN UNTIL OWNER WHY``; any other text becomes the owner, without an end."""
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
        """Return the error for everybody else."""
        return Reserved(str(self), board=board, step=step, reservation=self)


def clean(text: str) -> str:
    """Return ``text`` as one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
