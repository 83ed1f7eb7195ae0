"""A rollout as the list of what happened. Everything that is known of it follows from this list (``fleet.view``)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bpudeploy.spec.fleet import RolloutSpec


class Work(StrEnum):
    """What is done to a board."""

    UPDATE = "update"
    ROLLBACK = "rollback"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    at: float
    """Seconds since 1970, by the clock of who wrote it."""


class Place(BaseModel):
    """A board's part in a rollout, fixed when it was planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    board: str
    address: str
    jump: str | None
    board_id: str | None
    root: str | None = None
    """Where releases are installed there; None: where its target says."""
    target: str
    release: str | None
    """What it is to serve; None where nothing is built for its target."""
    wave: int
    """From 0."""
    skipped: str | None
    """Why it gets nothing; None where it gets its release."""


class Job(BaseModel):
    """A piece of work, as it is handed to a worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    place: Place
    work: Work
    before: str | None
    """What the board served when this rollout first met it: what a rollback goes back to. None: it is not known;
    empty: it served none."""


class Tell(Protocol):
    """How a worker says how far it has got; what it says is on the disk when this returns.

    A worker tells what a board ``serves`` before it changes anything there: without it, nobody who takes over from a
    controller that was killed could know what to go back to.
    """

    def __call__(self, step: str, detail: str = "", serves: str | None = None) -> None:
        """Say it.

        Raises:
            BpudeployError: the controller is gone: nothing more is to be changed on the board.
        """
        ...


class Planned(_Value):
    """The first event: what the rollout is."""

    event: Literal["planned"] = "planned"
    rollout: str
    name: str
    """The recipe's."""
    by: str
    policy: RolloutSpec
    places: tuple[Place, ...]
    approvals: tuple[int, ...]
    """Waves that wait for an approval."""
    soaks: tuple[float, ...]
    """Seconds, by wave."""


class Controlled(_Value):
    """A controller took the rollout up; those before it are gone."""

    event: Literal["controlled"] = "controlled"
    by: str
    """user@host pid N."""


class Started(_Value):
    """Work on a board is about to begin. From here on it may have been touched, until its end says otherwise."""

    event: Literal["started"] = "started"
    board: str
    work: Work
    attempt: int


class Reached(_Value):
    """A board got so far in its work: connected, pushed, checked."""

    event: Literal["reached"] = "reached"
    board: str
    step: str
    detail: str = ""
    serves: str | None = None
    """The release that it serves at this step, where that is known; empty: none."""


class Late(_Value):
    """Work on a board takes longer than it may: it counts as failed, and holds up its wave no more.

    Its worker may still end, and say how.
    """

    event: Literal["late"] = "late"
    board: str


class Ending(StrEnum):
    """How work on a board ended."""

    DONE = "done"
    """It serves what it should, and passed its gates."""
    FAILED = "failed"
    """It refused, or did not pass a gate; what it serves now is in the detail."""
    UNREACHABLE = "unreachable"
    """It could not be reached, or was lost: nobody knows what it serves."""
    RESERVED = "reserved"
    """Somebody has it."""
    ABANDONED = "abandoned"
    """The controller stopped before it was done."""


class Outcome(BaseModel):
    """What came of work on a board."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ending: Ending
    detail: str = ""
    changed: bool = False
    """Another release was activated there (by an update), or made current again (by a rollback)."""
    touched: bool = True
    """False: it is certain that nothing was changed there."""
    serves: str | None = None
    """The release that it serves now, verified, where that is known; empty: none."""
    before: str | None = None
    """What it served before, where that is known; empty: none."""
    bytes_sent: int = 0


class Ended(_Value, Outcome):
    """Work on a board ended."""

    event: Literal["ended"] = "ended"
    board: str
    work: Work


class Order(StrEnum):
    """What a person tells a rollout, from any terminal."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    APPROVE = "approve"


class Ordered(_Value):
    """A person said something."""

    event: Literal["ordered"] = "ordered"
    order: Order
    by: str
    wave: int | None = None
    """Of an approval; None: the first that waits for one."""


class WaveEnded(_Value):
    """All boards of a wave have ended, or are late; its soak begins."""

    event: Literal["wave_ended"] = "wave_ended"
    wave: int


class Result(StrEnum):
    """How a rollout ended."""

    COMPLETE = "complete"
    """Every board that was to be updated serves its release."""
    INCOMPLETE = "incomplete"
    """Some are unreachable, reserved or failed within what is allowed: ``fleet reconcile`` goes on."""
    FAILED = "failed"
    """It stopped at its threshold of failures."""
    ABORTED = "aborted"


class Finished(_Value):
    """The last event."""

    event: Literal["finished"] = "finished"
    result: Result
    why: str


Event = Planned | Controlled | Started | Reached | Late | Ended | Ordered | WaveEnded | Finished
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
