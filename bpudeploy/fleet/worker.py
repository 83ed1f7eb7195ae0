"""The tasks on one board of a rollout: update it and check its gates, or roll it back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.boardjob import BoardJob, on_board, opener_of
from bpudeploy.boards.facts import read_facts
from bpudeploy.digest import short
from bpudeploy.effects.installed import InstalledReleases, installed_releases
from bpudeploy.effects.push import PushPolicy, PushResult
from bpudeploy.effects.reserve import Reserved
from bpudeploy.errors import BoardError, ConnectionLost, StoreError, Unreachable, UsageError
from bpudeploy.fleet.events import BoardTask, ReportProgress, TaskKind, TaskResult, TaskStatus
from bpudeploy.measure import Candidate, earlier_candidate
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.statistics import paired_drop
from bpudeploy.spec.fleet import GatesSpec
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.target import BoardSpec

_STEP = "fleet"


@dataclass(frozen=True)
class Deployment:
    """What to deploy to the boards of one target; shared by all of them."""

    candidate: Candidate
    board: BoardSpec
    policy: PushPolicy
    method: BenchmarkSpec
    store: Path


class GateFailed(Exception):
    """An updated board does not meet a gate of the policy."""


def run_task(
    deployments: Mapping[str, Deployment], gates: GatesSpec, task: BoardTask, report: ReportProgress
) -> TaskResult:
    """Run a task; ``deployments`` are by target name."""
    deployment = deployments[task.plan.target]
    if task.work is TaskKind.UPDATE:
        return _update(task, deployment, gates, report)
    return _roll_back(task, deployment, report)


def _update(task: BoardTask, deployment: Deployment, gates: GatesSpec, report: ReportProgress) -> TaskResult:
    before: InstalledReleases | None = None
    try:
        with _connect(task, deployment) as board:
            before = installed_releases(board.board, step=_STEP)
            report("connected", serves=before.current)
            pushed = board.push(deployment.candidate.release, deployment.policy)
            report("pushed", serves=deployment.candidate.release.digest)
            try:
                detail = _check_gates(board, deployment, gates, before, report)
            except ConnectionLost:
                raise
            except (GateFailed, BoardError) as error:
                return _undo_update(board, deployment, task, before, pushed, error)
    except BoardError as error:
        return _error_result(error, before)
    return TaskResult(
        ending=TaskStatus.DONE,
        detail=detail,
        changed=pushed.changed,
        serves=deployment.candidate.release.digest,
        before=before.current,
        bytes_sent=pushed.bytes_sent,
    )


def _check_gates(
    board: BoardJob, deployment: Deployment, gates: GatesSpec, before: InstalledReleases, report: ReportProgress
) -> str:
    """Check the gates of an updated board and return a summary of the measurements.

    Raises:
        GateFailed: a gate is not met.
        BoardError: the board cannot be measured.
    """
    notes = []
    if gates.self_check:
        checked = board.check(deployment.candidate)
        if not checked.holds:
            raise GateFailed(f"the golden self-check deviates by {checked.deviation:.2g}, allowed: {checked.limit:g}")
        report("checked", f"self-check {checked.deviation:.2g}")
    if gates.max_drop is not None or gates.max_p99_slower is not None:
        notes += _check_measured(board, deployment, gates, before)
        report("measured", "; ".join(notes))
    if gates.max_temperature is not None:
        temperature = max(read_facts(board.board).temperatures_c.values(), default=None)
        if temperature is not None and temperature > gates.max_temperature:
            raise GateFailed(f"its hottest sensor reports {temperature:.0f} °C, allowed: {gates.max_temperature:g}")
        notes.append(f"{temperature:.0f} °C" if temperature is not None else "no temperature sensor")
    return "; ".join(notes)


def _check_measured(board: BoardJob, deployment: Deployment, gates: GatesSpec, before: InstalledReleases) -> list[str]:
    previous = _previous(deployment, before) if gates.max_p99_slower is not None else None
    measured = board.measure([deployment.candidate, *([previous] if previous else [])], deployment.method)
    notes = []
    if gates.max_drop is not None:
        notes.append(_check_drop(deployment.candidate, measured[0], gates.max_drop))
    if gates.max_p99_slower is not None:
        notes.append(_check_p99(measured, gates.max_p99_slower))
    return notes


def _previous(deployment: Deployment, before: InstalledReleases) -> Candidate | None:
    """Return the release that the board served before, if this project built it with the same evaluation images."""
    if not before.current or before.current == deployment.candidate.release.digest:
        return None
    with suppress(UsageError, StoreError):
        return earlier_candidate(before.current, deployment.candidate, deployment.store)
    return None


def _check_drop(chosen: Candidate, measured: Measurement, limit: float) -> str:
    assert measured.answers is not None
    right = [best[0] == label for best, label in zip(chosen.answers.truth, chosen.answers.labels, strict=True)]
    lost = paired_drop(right, measured.answers.right).points.value
    if lost > limit:
        raise GateFailed(f"it loses {lost:.1f} points of top-1 against float, allowed: {limit:g}")
    return f"top-1 {-lost:+z.1f} points"


def _check_p99(measured: tuple[Measurement, ...], limit: float) -> str:
    if len(measured) == 1:
        return "p99 not compared: the previous release was not built by this project, or with other images"
    comparison = compare([measured[1]], [measured[0]], at_least=0)
    p99 = next((change for change in comparison.latency if change.what == "p99"), None)
    if p99 is None or p99.interval is None:
        return "p99 not compared: too few rounds"
    low, high = p99.interval.low, p99.interval.high
    text = f"p99 {p99.percent:+.1f} % ({low:+.1f} to {high:+.1f}) against the previous release"
    if low > limit:
        raise GateFailed(f"{text}, allowed: {limit:g} %")
    return text


def _undo_update(
    board: BoardJob,
    deployment: Deployment,
    task: BoardTask,
    before: InstalledReleases,
    pushed: PushResult,
    error: Exception,
) -> TaskResult:
    """Roll a board that failed its gates back to the release that it served before this rollout."""
    why = error.message if isinstance(error, BoardError) else str(error)
    digest = deployment.candidate.release.digest
    common = {"ending": TaskStatus.FAILED, "before": before.current, "bytes_sent": pushed.bytes_sent}
    earlier = before.current if pushed.changed else task.before  # a lost attempt may have activated it
    if earlier == digest:
        return TaskResult(detail=f"{why}; it already served this release", serves=digest, **common)
    if not earlier:
        detail = f"{why}; it has no previous release to roll back to"
        return TaskResult(detail=detail, serves=digest, changed=pushed.changed, **common)
    try:
        now = board.roll_back(deployment.policy).release
    except ConnectionLost as lost:
        return TaskResult(detail=f"{why}; and during the rollback: {lost.message}", changed=True, **common)
    except BoardError as again:
        detail = f"{why}; the rollback failed: {again.message}"
        return TaskResult(detail=detail, serves=digest, changed=True, **common)
    return TaskResult(detail=f"{why}; rolled back to {short(now)}", serves=now, **common)


def _roll_back(task: BoardTask, deployment: Deployment, report: ReportProgress) -> TaskResult:
    try:
        with _connect(task, deployment) as board:
            now = installed_releases(board.board, step=_STEP)
            report("connected", serves=now.current)
            if now.current == task.before:
                return TaskResult(ending=TaskStatus.DONE, detail="it already served this release", serves=now.current)
            if not task.before or now.previous != task.before:
                wanted, found = (short(digest or "") or "none" for digest in (task.before, now.previous))
                detail = f"cannot roll back to {wanted}: the previous release on the board is {found}"
                return TaskResult(ending=TaskStatus.FAILED, detail=detail, serves=now.current)
            back = board.roll_back(deployment.policy)
            return TaskResult(ending=TaskStatus.DONE, changed=True, serves=back.release, before=now.current)
    except BoardError as error:
        return _error_result(error, None)


def _error_result(error: BoardError, before: InstalledReleases | None) -> TaskResult:
    """Return the result of a task that an error ended.

    Args:
        before: what the board served before any change, if it was asked; a push that is refused changes nothing.
    """
    current = before.current if before is not None else None
    match error:
        case Unreachable():
            return TaskResult(ending=TaskStatus.UNREACHABLE, detail=error.message, touched=False)
        case ConnectionLost():
            return TaskResult(ending=TaskStatus.UNREACHABLE, detail=error.message, before=current)
        case Reserved():
            detail = str(error.reservation)
            return TaskResult(ending=TaskStatus.RESERVED, detail=detail, touched=False, serves=current, before=current)
        case _:
            touched = before is not None
            return TaskResult(
                ending=TaskStatus.FAILED, detail=error.message, touched=touched, serves=current, before=current
            )


def _connect(task: BoardTask, deployment: Deployment) -> AbstractContextManager[BoardJob]:
    """Connect to the board of a task; its step events are dropped, because the journal has the progress."""
    plan = task.plan
    opener = opener_of(plan.board, plan.address, deployment.board, jump=plan.jump, root=plan.root)
    return on_board(opener, lambda _event: None, board_id=plan.board_id)
