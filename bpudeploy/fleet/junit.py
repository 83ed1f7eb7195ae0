"""A rollout as a JUnit report: one test suite per wave, one test case per board."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.fleet.events import Event
from bpudeploy.fleet.history import BoardHistory, RolloutHistory, rollout_history, utc
from bpudeploy.fleet.view import BoardState
from bpudeploy.results.junit import Case, CaseStatus, Suite, report

_VERDICTS = {
    BoardState.DONE: CaseStatus.PASSED,
    BoardState.FAILED: CaseStatus.FAILURE,
    BoardState.LATE: CaseStatus.FAILURE,
    BoardState.UNREACHABLE: CaseStatus.ERROR,
}
"""All other states are reported as skipped."""


def to_junit(events: Sequence[Event]) -> str:
    """Return a JUnit report, in the form that Ant's, Jenkins's and GitLab's readers agree on.

    ==============================================  ===========================================
    done                                            passed
    failed or late, even if rolled back afterwards  ``failure``
    unreachable                                     ``error``: what the board serves is unknown
    skipped, reserved, rolled back without failing  ``skipped``
    waiting, in progress, not begun                 ``skipped``
    ==============================================  ===========================================

    Boards that are in no wave get a suite of their own. Characters that XML does not allow are replaced by U+FFFD.

    Raises:
        ValueError: the first event is not ``RolloutPlanned``.
    """
    history = rollout_history(events)
    suites = [_suite(history, f"wave {wave + 1}", history.began(wave), bs) for wave, bs in history.waves.items()]
    if history.skipped:
        suites.append(_suite(history, "in no wave", None, history.skipped))
    return report(suites)


def _suite(history: RolloutHistory, name: str, began: float | None, boards: Sequence[BoardHistory]) -> Suite:
    planned = history.planned
    return Suite(
        name=name,
        package=planned.name,
        began=utc(planned.at if began is None else began),
        properties={
            "rollout": planned.rollout,
            "by": planned.by,
            "result": history.result,
            "why": history.view.why,
        },
        cases=[_case(history, board) for board in boards],
    )


def _case(history: RolloutHistory, board: BoardHistory) -> Case:
    view, plan = board.board, board.board.plan
    message = f"{board.label}: {board.detail}" if board.detail else board.label
    facts = [
        f"release: {_release(plan.release)}",
        f"serves: {_release(view.serves)}",
        f"before: {_release(view.before)}",
        f"attempts: {board.updates}",
    ]
    return Case(
        name=plan.board,
        classname=f"{history.planned.name}.{plan.target}",
        seconds=board.seconds(history.last),
        status=CaseStatus.FAILURE if view.failed else _VERDICTS.get(view.state, CaseStatus.SKIPPED),
        message=message,
        type=view.state.value,
        text="\n".join([message, *facts]),
    )


def _release(digest: str | None) -> str:
    """Return a release with its whole digest."""
    return "unknown" if digest is None else digest or "none"
