"""The boards at work: each takes the most valuable job that it may run, until none is left for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto

from bpudeploy.effects.reserve import Reserved
from bpudeploy.errors import BoardError, BpudeployError
from bpudeploy.nightly.night import Fault, JobState
from bpudeploy.nightly.suite import HERE, Job
from bpudeploy.nightly.work import JobRelease

_FAULTS_IN_A_ROW = 2
"""After so many a board is no longer used tonight."""
_POLL_S = 0.5


class At(Enum):
    """Where a job is."""

    BUILDING = auto()
    READY = auto()
    RUNNING = auto()
    DONE = auto()


@dataclass
class Ticket:
    """A job on its way through the night."""

    job: Job
    at: At = At.BUILDING
    release: JobRelease | None = None
    expected_s: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    failed_on: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Terms:
    """What a night allows. ``deadline`` is by ``time.monotonic()``."""

    deadline: float
    retries: int
    wait_s: float
    """For a board that somebody else has reserved."""
    pause_s: float = 20.0
    """Between two tries of a board."""


class Floor:
    """Hands jobs to boards; every method is safe in threads.

    Args:
        out: boards that are left out, and why.
        done: called with a job that is over without a measurement, and why.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        out: Mapping[str, str],
        terms: Terms,
        done: Callable[[Ticket, JobState, str], None],
    ) -> None:
        self.tickets = tuple(Ticket(job) for job in jobs)
        self.stopping = threading.Event()
        self._terms, self._done = terms, done
        self._gone = dict(out)
        self.boards = tuple(dict.fromkeys(b for job in jobs for b in job.boards if b not in out))
        self._at_work = set(self.boards)
        self._change = threading.Condition(threading.RLock())

    def ready(self, ticket: Ticket, release: JobRelease, expected_s: float) -> None:
        """A job was built: it may be measured."""
        with self._change:
            ticket.release, ticket.expected_s, ticket.at = release, expected_s, At.READY
            self._change.notify_all()

    def over(self, ticket: Ticket, state: JobState, why: str) -> None:
        """A job ends without a measurement."""
        with self._change:
            ticket.at = At.DONE
            self._done(ticket, state, why)
            self._change.notify_all()

    def measured(self, ticket: Ticket) -> None:
        """A job has been measured, and judged."""
        with self._change:
            ticket.at = At.DONE
            self._change.notify_all()

    def is_done(self, ticket: Ticket) -> bool:
        """Say whether a job is over."""
        with self._change:
            return ticket.at is At.DONE

    def stop(self) -> None:
        """Begin nothing more."""
        with self._change:
            self.stopping.set()
            self._change.notify_all()

    def serve(self, board: str, measure: Callable[[Ticket, str], None]) -> None:
        """Be a board: take jobs and have them measured, until none is left for it, or it fails.

        Args:
            measure: brings a job to its end, or raises BoardError.
        """
        in_a_row, refused_s, why = 0, 0.0, ""
        while not why and (ticket := self._take(board)) is not None:
            try:
                measure(ticket, board)
            except Reserved as error:
                self._back(ticket)
                why = str(error) if refused_s >= self._terms.wait_s else ""
                refused_s += self._terms.pause_s
            except BoardError as error:
                in_a_row += 1
                self._fault(ticket, board, error)
                why = f"{in_a_row} faults in a row, the last: {error}" if in_a_row >= _FAULTS_IN_A_ROW else ""
            except BpudeployError as error:
                self.over(ticket, JobState.BUILD_FAILED, f"it was built, and could not be measured: {error}")
                continue
            else:
                in_a_row, refused_s = 0, 0.0
                self.measured(ticket)
                continue
            if not why:
                self.stopping.wait(self._terms.pause_s)
        self._leave(board, why)

    def close(self) -> None:
        """End what no board could take; the boards are gone."""
        with self._change:
            for ticket in self.tickets:
                if ticket.at is At.READY:
                    self.over(ticket, JobState.NO_BOARD, self._why(ticket))

    def _take(self, board: str) -> Ticket | None:
        with self._change:
            while not self.stopping.is_set():
                mine = [ticket for ticket in self.tickets if board in ticket.job.boards and ticket.at is not At.DONE]
                if not mine:
                    return None
                quiet = board != HERE or all(ticket.at is not At.BUILDING for ticket in self.tickets)
                for ticket in mine:
                    if ticket.at is At.READY and quiet and self._may(ticket, board) and self._fits(ticket):
                        ticket.at = At.RUNNING
                        return ticket
                self._change.wait(_POLL_S)
            return None

    def _may(self, ticket: Ticket, board: str) -> bool:
        """A job that failed on a board goes to another, where there is one."""
        others = set(ticket.job.boards) & self._at_work - ticket.failed_on
        return board not in ticket.failed_on or not others

    def _fits(self, ticket: Ticket) -> bool:
        left = self._terms.deadline - time.monotonic()
        if ticket.expected_s <= left:
            return True
        why = f"it takes about {ticket.expected_s:.0f} s, and {max(left, 0):.0f} s of the night were left"
        self.over(ticket, JobState.LEFT_OUT, why)
        return False

    def _back(self, ticket: Ticket) -> None:
        with self._change:
            ticket.at = At.READY
            self._change.notify_all()

    def _fault(self, ticket: Ticket, board: str, error: BoardError) -> None:
        with self._change:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            ticket.faults.append(Fault(board=board, at=at, said=str(error)))
            ticket.failed_on.add(board)
            if len(ticket.faults) > self._terms.retries:
                self.over(ticket, JobState.NO_BOARD, str(error))
            else:
                self._back(ticket)

    def _leave(self, board: str, why: str) -> None:
        with self._change:
            self._at_work.discard(board)
            if why:
                self._gone[board] = why
            self._change.notify_all()

    def _why(self, ticket: Ticket) -> str:
        reasons = [f"{board}: {self._gone[board]}" for board in ticket.job.boards if board in self._gone]
        return "; ".join(reasons) or "no board of its pool was free"
