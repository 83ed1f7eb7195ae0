"""One job on one board: reserve it, measure the release and its baseline in turns, look twice, give it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.effects.lost import watched
from bpudeploy.effects.reserve import release, reserve
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note
from bpudeploy.measure import Candidate, measure, provenance_of
from bpudeploy.nightly.baseline import Baseline
from bpudeploy.nightly.judge import Held, against_baseline
from bpudeploy.nightly.metrics import spoilt
from bpudeploy.nightly.night import Outcome
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.suite import NightlyChecks
from bpudeploy.spec.target import Target

STEP = "nightly"
_LONGEST = 3
"""Times that a job is measured at most: once, again where it was spoilt, and again where it looks bad."""
_SPARE_S = 900.0


@dataclass(frozen=True)
class Kit:
    """What is measured of a job: tonight's release, and the pinned one where it is another and still here."""

    recipe: str
    """Its file."""
    target: Target
    candidate: Candidate
    pinned: Candidate | None
    baseline: Baseline | None
    method: BenchmarkSpec
    checks: NightlyChecks

    @property
    def contenders(self) -> tuple[Candidate, ...]:
        return (self.candidate, *((self.pinned,) if self.pinned is not None else ()))

    @property
    def seconds(self) -> float:
        """For how long the board is reserved: all that may be measured, and room for what is sent."""
        return _LONGEST * len(self.contenders) * self.method.max_seconds + _SPARE_S


def measure_on(
    opener: BoardOpener,
    kit: Kit,
    suite: str,
    night: str,
    check: Callable[[Board], None],
    keep: Callable[[tuple[Measurement, ...]], None],
    emit: Callable[[Event], None],
) -> tuple[Held, ...]:
    """Measure a job's release on a board and return each look at it, the latest last.

    Args:
        suite: who holds the board meanwhile.
        check: raises BoardError where it is not the board that is meant.
        keep: called with what was measured, as soon as it is.

    Raises:
        Reserved: somebody else has the board.
        BoardError: the board failed, or its network did.
    """
    with watched(opener) as board:
        check(board)
        with _held(board, kit, suite, emit):
            held = [_look(board, kit, night, keep, emit)]
            if spoilt(held[-1].measured):
                emit(Note(STEP, f"spoilt ({', '.join(held[-1].measured.caveats)}): measured again"))
                held = [_look(board, kit, night, keep, emit)]
            if _looks_bad(held[0], kit):
                emit(Note(STEP, "looks like a regression: measured again, to be sure"))
                held.append(_look(board, kit, night, keep, emit))
    return tuple(held)


@contextmanager
def _held(board: Board, kit: Kit, suite: str, emit: Callable[[Event], None]) -> Iterator[None]:
    why = f"{suite} measures {kit.candidate.release.manifest.name}"
    reserve(board, seconds=kit.seconds, why=why, wait_s=0, emit=emit, job=suite)
    try:
        yield
    finally:
        with suppress(BoardError):  # what failed first is the one to tell; a reservation ends by itself
            release(board, force=False, job=suite)


def _looks_bad(held: Held, kit: Kit) -> bool:
    findings = against_baseline([held], kit.baseline, kit.checks)
    return any(one.outcome is Outcome.REGRESSION and one.metric.is_latency for one in findings)


def _look(
    board: Board,
    kit: Kit,
    night: str,
    keep: Callable[[tuple[Measurement, ...]], None],
    emit: Callable[[Event], None],
) -> Held:
    measured = measure(board, kit.contenders, kit.method, provenance_of(kit.target), emit)
    ours = measured[0].model_copy(update={"night": night})
    keep((ours, *measured[1:]))
    return Held(ours, compare(measured[1:], [ours]) if len(measured) > 1 else None)
