"""The events of a rollout, as its journal stores them. ``fleet.view`` derives the rollout's state from them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Protocol

from pydantic import Field, TypeAdapter

from bpudeploy.results.measurement import FrozenModel
from bpudeploy.spec.fleet import RolloutSpec


class TaskKind(StrEnum):
    """What a worker does on a board."""

    UPDATE = "update"
    ROLLBACK = "rollback"


class _EventBase(FrozenModel):
    at: float
    """Seconds since 1970, by the writer's clock."""


class BoardPlan(FrozenModel):
    """A board's part in a rollout, fixed when the rollout is planned."""

    board: str
    address: str
    jump: str | None
    board_id: str | None
    root: str | None = None
    """Where releases are installed on the board; None: the target's folder."""
    target: str
    release: str | None
    """The release to install; None if nothing is built for the target."""
    wave: int
    """From 0."""
    skipped: str | None
    """Why the board gets no release; None if it gets one."""


class BoardTask(FrozenModel):
    """One update or rollback of one board, as handed to a worker."""

    plan: BoardPlan
    work: TaskKind
    before: str | None
    """The release served before this rollout, which a rollback restores; None: unknown; empty: none."""


class ReportProgress(Protocol):
    """Record a step of a task in the journal; the record is on disk when this returns.

    A worker reports what a board ``serves`` before it changes the board, so that the next controller knows what to
    restore if this one is killed.
    """

    def __call__(self, step: str, detail: str = "", serves: str | None = None) -> None:
        """Record the step.

        Raises:
            BpudeployError: the controller is gone; change nothing more on the board.
        """
        ...


class RolloutPlanned(_EventBase):
    """The first event: what is to be rolled out, where and how."""

    event: Literal["planned"] = "planned"
    rollout: str
    name: str
    """The recipe's."""
    by: str
    policy: RolloutSpec
    places: tuple[BoardPlan, ...]
    approvals: tuple[int, ...]
    """Waves that need an approval."""
    soaks: tuple[float, ...]
    """Seconds, one per wave."""


class ControllerStarted(_EventBase):
    """A controller took over the rollout; earlier ones are gone."""

    event: Literal["controlled"] = "controlled"
    by: str
    """user@host pid N."""


class BoardStarted(_EventBase):
    """A task on a board is about to start. The board may have been changed until ``BoardEnded`` says otherwise."""

    event: Literal["started"] = "started"
    board: str
    work: TaskKind
    attempt: int


class StepReached(_EventBase):
    """A task reached a step: connected, pushed, checked."""

    event: Literal["reached"] = "reached"
    board: str
    step: str
    detail: str = ""
    serves: str | None = None
    """The release that the board serves at this step, if known; empty: none."""


class BoardLate(_EventBase):
    """A task exceeded its time limit: the board counts as failed and its wave no longer waits for it.

    The worker may still finish and report a result.
    """

    event: Literal["late"] = "late"
    board: str


class TaskStatus(StrEnum):
    """How a task ended."""

    DONE = "done"
    """The board serves the intended release and passed its gates."""
    FAILED = "failed"
    """The board refused the release or failed a gate; the detail says what it serves now."""
    UNREACHABLE = "unreachable"
    """No connection, or it was lost: what the board serves is unknown."""
    RESERVED = "reserved"
    """Somebody else has reserved the board."""
    ABANDONED = "abandoned"
    """The controller stopped before the task ended."""


class TaskResult(FrozenModel):
    """The result of a task."""

    ending: TaskStatus
    detail: str = ""
    changed: bool = False
    """Another release was activated (update), or the previous one restored (rollback)."""
    touched: bool = True
    """False: certainly nothing was changed on the board."""
    serves: str | None = None
    """The verified release that the board serves now, if known; empty: none."""
    before: str | None = None
    """The release that the board served before the task, if known; empty: none."""
    bytes_sent: int = 0


class BoardEnded(_EventBase, TaskResult):
    """A task on a board ended."""

    event: Literal["ended"] = "ended"
    board: str
    work: TaskKind


class RolloutCommand(StrEnum):
    """What an operator can tell a rollout, from any terminal."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    APPROVE = "approve"


class CommandGiven(_EventBase):
    """An operator gave a command."""

    event: Literal["ordered"] = "ordered"
    order: RolloutCommand
    by: str
    wave: int | None = None
    """For an approval; None: the first wave that waits for one."""


class WaveEnded(_EventBase):
    """All boards of a wave have ended or are late; its soak begins."""

    event: Literal["wave_ended"] = "wave_ended"
    wave: int


class RolloutResult(StrEnum):
    """How a rollout ended."""

    COMPLETE = "complete"
    """Every board that was to be updated serves its release."""
    INCOMPLETE = "incomplete"
    """Boards are unreachable, reserved, or failed within ``max_failures``; ``fleet reconcile`` continues."""
    FAILED = "failed"
    """More boards failed than ``max_failures`` allows."""
    ABORTED = "aborted"


class RolloutFinished(_EventBase):
    """The last event."""

    event: Literal["finished"] = "finished"
    result: RolloutResult
    why: str


Event = (
    RolloutPlanned
    | ControllerStarted
    | BoardStarted
    | StepReached
    | BoardLate
    | BoardEnded
    | CommandGiven
    | WaveEnded
    | RolloutFinished
)
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
