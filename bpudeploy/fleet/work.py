"""The work on one board of a rollout: update it and hold it to its gates, or take it back to what it served before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.boardjob import BoardJob, on_board, opener_of
from bpudeploy.boards.facts import read_facts
from bpudeploy.digest import short
from bpudeploy.effects.installed import InstalledReleases
from bpudeploy.effects.push import PushPolicy, PushResult
from bpudeploy.effects.reserve import Reserved
from bpudeploy.errors import BoardError, ConnectionLost, Unreachable, UsageError
from bpudeploy.fleet.events import Ending, Job, Outcome, Tell, Work
from bpudeploy.measure import Candidate, candidate
from bpudeploy.releases import find_release
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.statistics import paired_drop
from bpudeploy.spec.fleet import GatesSpec
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.target import BoardSpec

_STEP = "fleet"


@dataclass(frozen=True)
class Deployment:
    """What every board of one target gets, and how it is reached; shared by all of them."""

    candidate: Candidate
    board: BoardSpec
    policy: PushPolicy
    method: BenchmarkSpec
    store: Path


class GateBroken(Exception):
    """A board was updated and did not show what it must."""


def worker(deployments: Mapping[str, Deployment], gates: GatesSpec) -> Callable[[Job, Tell], Outcome]:
    """Return what does a piece of work on a board, by target name."""

    def work(job: Job, tell: Tell) -> Outcome:
        deployment = deployments[job.place.target]
        return _update(job, deployment, gates, tell) if job.work is Work.UPDATE else _roll_back(job, deployment, tell)

    return work


def _update(job: Job, deployment: Deployment, gates: GatesSpec, tell: Tell) -> Outcome:
    before: InstalledReleases | None = None
    try:
        with _on(job, deployment) as board:
            before = board.installed_releases(_STEP)
            tell("connected", serves=before.current)
            pushed = board.push(deployment.candidate.release, deployment.policy)
            tell("pushed", serves=deployment.candidate.release.digest)
            try:
                detail = _gates(board, deployment, gates, before, tell)
            except ConnectionLost:
                raise
            except (GateBroken, BoardError) as error:
                return _go_back(board, deployment, job, before, pushed, error)
    except BoardError as error:
        return _cut_short(error, before)
    return Outcome(
        ending=Ending.DONE,
        detail=detail,
        changed=pushed.changed,
        serves=deployment.candidate.release.digest,
        before=before.current,
        bytes_sent=pushed.bytes_sent,
    )


def _gates(board: BoardJob, deployment: Deployment, gates: GatesSpec, before: InstalledReleases, tell: Tell) -> str:
    """Hold an updated board to its gates; returns what is worth knowing.

    Raises:
        GateBroken: one does not hold.
        BoardError: the board cannot show it.
    """
    notes = []
    if gates.self_check:
        checked = board.check(deployment.candidate)
        if not checked.holds:
            raise GateBroken(f"the golden self-check deviates by {checked.deviation:.2g}, {checked.limit:g} is allowed")
        tell("checked", f"self-check {checked.deviation:.2g}")
    if gates.max_drop is not None or gates.max_p99_slower is not None:
        notes += _measured(board, deployment, gates, before)
        tell("measured", "; ".join(notes))
    if gates.max_temperature is not None:
        heat = max(read_facts(board.board).temperatures_c.values(), default=None)
        if heat is not None and heat > gates.max_temperature:
            raise GateBroken(f"its hottest sensor says {heat:.0f} °C, {gates.max_temperature:g} are allowed")
        notes.append(f"{heat:.0f} °C" if heat is not None else "no temperature sensor")
    return "; ".join(notes)


def _measured(board: BoardJob, deployment: Deployment, gates: GatesSpec, before: InstalledReleases) -> list[str]:
    others = [_before(deployment, before)] if gates.max_p99_slower is not None else []
    known = [
        one for one in others if one is not None and one.evaluation.digest == deployment.candidate.evaluation.digest
    ]
    measured = board.measure([deployment.candidate, *known], deployment.method)
    notes = []
    if gates.max_drop is not None:
        notes.append(_drop(deployment.candidate, measured[0], gates.max_drop))
    if gates.max_p99_slower is not None:
        notes.append(_slower(measured, gates.max_p99_slower))
    return notes


def _before(deployment: Deployment, before: InstalledReleases) -> Candidate | None:
    """Return the release that the board served before, where a run of this project built it."""
    if not before.current or before.current == deployment.candidate.release.digest:
        return None
    try:
        return candidate(find_release(before.current), deployment.store)
    except UsageError:
        return None


def _drop(chosen: Candidate, measured: Measurement, limit: float) -> str:
    assert measured.answers is not None
    right = [best[0] == label for best, label in zip(chosen.answers.truth, chosen.answers.labels, strict=True)]
    lost = paired_drop(right, measured.answers.right).points.value
    if lost > limit:
        raise GateBroken(f"it loses {lost:.1f} points of top-1 against float, {limit:g} are allowed")
    return f"top-1 lost {lost:+.1f} points"


def _slower(measured: tuple[Measurement, ...], limit: float) -> str:
    if len(measured) == 1:
        return "p99 not compared: its release before was not built by this project, or with other images"
    found = compare([measured[1]], [measured[0]], at_least=0)
    p99 = next((change for change in found.latency if change.what == "p99"), None)
    if p99 is None or p99.interval is None:
        return "p99 not compared: too few rounds"
    said = f"p99 {p99.percent:+.1f} % ({p99.interval.low:+.1f} to {p99.interval.high:+.1f}) against its release before"
    if p99.interval.low > limit:
        raise GateBroken(f"{said}, {limit:g} % are allowed")
    return said


def _go_back(
    board: BoardJob, deployment: Deployment, job: Job, before: InstalledReleases, pushed: PushResult, error: Exception
) -> Outcome:
    """Take a board that did not pass back to what it served before this rollout first touched it."""
    why = error.message if isinstance(error, BoardError) else str(error)
    digest = deployment.candidate.release.digest
    known = {"ending": Ending.FAILED, "before": before.current, "bytes_sent": pushed.bytes_sent}
    earlier = before.current if pushed.changed else job.before  # an attempt that was lost may have activated it
    if earlier == digest:
        return Outcome(detail=f"{why}; it served this release before", serves=digest, **known)
    if not earlier:
        detail = f"{why}; it has no release before to go back to"
        return Outcome(detail=detail, serves=digest, changed=pushed.changed, **known)
    try:
        now = board.roll_back(deployment.policy).release
    except ConnectionLost as lost:
        return Outcome(detail=f"{why}; and on its way back: {lost.message}", changed=True, **known)
    except BoardError as again:
        detail = f"{why}; it could not go back: {again.message}"
        return Outcome(detail=detail, serves=digest, changed=True, **known)
    return Outcome(detail=f"{why}; it serves {short(now)} again", serves=now, **known)


def _roll_back(job: Job, deployment: Deployment, tell: Tell) -> Outcome:
    try:
        with _on(job, deployment) as board:
            now = board.installed_releases(_STEP)
            tell("connected", serves=now.current)
            if now.current == job.before:
                return Outcome(ending=Ending.DONE, detail="it served it already", serves=now.current)
            if not job.before or now.previous != job.before:
                wanted = short(job.before) if job.before else "none"
                detail = f"it is to go back to {wanted}, and has {short(now.previous) or 'none'}: it stays as it is"
                return Outcome(ending=Ending.FAILED, detail=detail, serves=now.current)
            back = board.roll_back(deployment.policy)
            return Outcome(ending=Ending.DONE, changed=True, serves=back.release, before=now.current)
    except BoardError as error:
        return _cut_short(error, None)


def _cut_short(error: BoardError, before: InstalledReleases | None) -> Outcome:
    """Return what became of a board whose work an error ended.

    Args:
        before: what it served, where it was asked before anything was changed: a push that is refused leaves that.
    """
    current = before.current if before is not None else None
    match error:
        case Unreachable():
            return Outcome(ending=Ending.UNREACHABLE, detail=error.message, touched=False)
        case ConnectionLost():
            return Outcome(ending=Ending.UNREACHABLE, detail=error.message, before=current)
        case Reserved():
            said = str(error.reservation)
            return Outcome(ending=Ending.RESERVED, detail=said, touched=False, serves=current, before=current)
        case _:
            touched = before is not None
            return Outcome(ending=Ending.FAILED, detail=error.message, touched=touched, serves=current, before=current)


def _on(job: Job, deployment: Deployment) -> AbstractContextManager[BoardJob]:
    """Connect to the board of a job; of a hundred boards at once, the journal keeps the progress, not the events."""
    place = job.place
    return on_board(opener_of(place.board, place, deployment.board), lambda _event: None, board_id=place.board_id)
