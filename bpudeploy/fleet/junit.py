"""A rollout as a JUnit report: a test suite a wave, a test case a board."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.fleet.chronicle import Chronicle, Told, chronicle, utc
from bpudeploy.fleet.events import Event
from bpudeploy.fleet.view import State
from bpudeploy.results.junit import Case, CaseStatus, Suite, report

_VERDICTS = {
    State.DONE: CaseStatus.PASSED,
    State.FAILED: CaseStatus.FAILURE,
    State.LATE: CaseStatus.FAILURE,
    State.UNREACHABLE: CaseStatus.ERROR,
}
"""What is not here has none: it was skipped, reserved, taken back because of others, or its turn did not come."""


def to_junit(events: Sequence[Event]) -> str:
    """Return a JUnit report, in the form that Ant's, Jenkins's and GitLab's readers agree on.

    ===================================================  =======================================================
    done                                                 passed
    failed, or late; also when it was rolled back after  ``failure``
    unreachable                                          ``error``: nobody knows what it serves
    skipped, reserved, rolled back because of others     ``skipped``
    waiting, at work, or never begun                     ``skipped``
    ===================================================  =======================================================

    A character that XML cannot hold is replaced by U+FFFD. Boards that are in no wave are a suite of their own.

    Raises:
        ValueError: the first event does not say what the rollout is.
    """
    told = chronicle(events)
    suites = [_suite(told, f"wave {wave + 1}", told.began(wave), boards) for wave, boards in told.waves.items()]
    if told.skipped:
        suites.append(_suite(told, "in no wave", None, told.skipped))
    return report(suites)


def _suite(told: Chronicle, name: str, began: float | None, boards: Sequence[Told]) -> Suite:
    planned = told.planned
    return Suite(
        name=name,
        package=planned.name,
        began=utc(planned.at if began is None else began),
        properties={"rollout": planned.rollout, "by": planned.by, "result": told.result, "why": told.view.why},
        cases=[_case(told, one) for one in boards],
    )


def _case(told: Chronicle, one: Told) -> Case:
    place, board = one.board.place, one.board
    words = f"{one.words}: {one.detail}" if one.detail else one.words
    return Case(
        name=place.board,
        classname=f"{told.planned.name}.{place.target}",
        seconds=one.seconds(told.last),
        status=CaseStatus.FAILURE if board.failed else _VERDICTS.get(board.state, CaseStatus.SKIPPED),
        message=words,
        type=board.state.value,
        text="\n".join([words, *_facts(one)]),
    )


def _facts(one: Told) -> list[str]:
    def named(release: str | None) -> str:
        return "not known" if release is None else release or "nothing"

    board = one.board
    return [
        f"was to serve: {named(board.place.release)}",
        f"serves: {named(board.serves)}",
        f"served before: {named(board.before)}",
        f"tries: {one.tries}",
    ]
