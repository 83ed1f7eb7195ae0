"""The state of a rollout, replayed from its events."""

from __future__ import annotations

import pytest

from bpudeploy.fleet.events import (
    BoardEnded,
    BoardLate,
    BoardStarted,
    CommandGiven,
    ControllerStarted,
    Event,
    RolloutCommand,
    RolloutFinished,
    RolloutPlanned,
    RolloutResult,
    StepReached,
    TaskKind,
    TaskStatus,
    WaveEnded,
)
from bpudeploy.fleet.view import BoardState, BoardView, Phase, RolloutView, replay
from bpudeploy.spec.fleet import Reserved, RolloutSpec
from tests.fleet.oracle import NEW, board_plan

ROLLBACK = TaskKind.ROLLBACK


def planned(
    *waves: int, policy: RolloutSpec | None = None, approvals: tuple[int, ...] = (), soak: float = 0.0
) -> RolloutPlanned:
    """Plan a rollout of boards a, b, ... in these waves."""
    return RolloutPlanned(
        at=0,
        rollout="r",
        name="n",
        by="me",
        policy=policy or RolloutSpec(),
        places=tuple(board_plan(chr(97 + i), wave) for i, wave in enumerate(waves)),
        approvals=approvals,
        soaks=(soak,) * (max(waves, default=-1) + 1),
    )


def started(board: str, at: float = 1, work: TaskKind = TaskKind.UPDATE, attempt: int = 1) -> Event:
    return BoardStarted(at=at, board=board, work=work, attempt=attempt)


def reached(board: str, serves: str | None, at: float = 2) -> Event:
    return StepReached(at=at, board=board, step="connect", serves=serves)


def ended(board: str, ending: TaskStatus, at: float = 3, work: TaskKind = TaskKind.UPDATE, **more: object) -> Event:
    return BoardEnded.model_validate({"at": at, "board": board, "work": work, "ending": ending, **more})


def order(what: RolloutCommand, wave: int | None = None, at: float = 5) -> Event:
    return CommandGiven(at=at, order=what, by="somebody", wave=wave)


def taken_up(at: float = 4) -> Event:
    return ControllerStarted(at=at, by="me@host pid 1")


def board(*events: Event, policy: RolloutSpec | None = None) -> BoardView:
    return replay([planned(0, policy=policy), *events]).boards["a"]


def test_before_anything_is_done_every_board_waits_or_is_skipped() -> None:
    plan = planned(0, 0).model_copy(update={"places": (board_plan("a", 0), board_plan("b", 0, skipped=True))})
    seen = replay([plan])
    assert [b.state for b in seen.boards.values()] == [BoardState.WAITING, BoardState.SKIPPED]
    assert seen.boards["b"].detail == "nothing is built for its target"


@pytest.mark.parametrize("events", [[], [taken_up()]])
def test_what_does_not_begin_with_a_plan_is_no_rollout(events: list[Event]) -> None:
    with pytest.raises(ValueError, match="first event"):
        replay(events)


def test_a_board_in_a_wave_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' is not in exactly one of 1 waves"):
        replay([planned(0, 0).model_copy(update={"places": (board_plan("a", 0), board_plan("b", 1))})])
    with pytest.raises(ValueError, match="'a' is not in exactly one"):
        replay([planned(0, 0).model_copy(update={"places": (board_plan("a", 0), board_plan("a", 0))})])


def test_an_update_that_ends_well() -> None:
    seen = board(started("a"), reached("a", "old"), ended("a", TaskStatus.DONE, changed=True, bytes_sent=7))
    assert seen.state is BoardState.DONE and seen.before == "old" and seen.serves == NEW
    assert seen.changed and not seen.unavailable and seen.bytes_sent == 7


def test_a_board_that_had_the_release_already_was_not_changed() -> None:
    seen = board(started("a"), reached("a", NEW), ended("a", TaskStatus.DONE, serves=NEW))
    assert seen.state is BoardState.DONE and not seen.changed and not seen.needs_rollback


def test_while_it_is_worked_on_a_board_counts_as_out_of_service() -> None:
    assert board(started("a")).unavailable and board(started("a"), BoardLate(at=9, board="a")).unavailable


@pytest.mark.parametrize(
    ("more", "uncertain"),
    [({"serves": "old"}, False), ({"touched": False}, False), ({}, True), ({"serves": ""}, False)],
)
def test_a_board_that_failed_is_out_of_service_unless_it_is_known_what_it_serves(
    more: dict[str, object], uncertain: bool
) -> None:
    seen = board(started("a"), reached("a", "old"), ended("a", TaskStatus.FAILED, 3, TaskKind.UPDATE, **more))
    assert seen.state is BoardState.FAILED and seen.failed and seen.unavailable is uncertain


def test_unreachable_is_not_failed_and_is_retried_first() -> None:
    lost = [started("a"), ended("a", TaskStatus.UNREACHABLE, touched=False)]
    once = board(*lost)
    assert once.state is BoardState.WAITING and once.lost_attempts == 1 and once.tried_at == 3
    twice = board(*lost, started("a", attempt=2), ended("a", TaskStatus.UNREACHABLE, touched=False))
    assert twice.state is BoardState.UNREACHABLE and not twice.failed and not twice.unavailable and twice.attempts == 2


def test_a_board_lost_in_its_update_stays_uncertain_until_it_is_asked_what_it_serves() -> None:
    lost = [started("a"), reached("a", "old"), ended("a", TaskStatus.UNREACHABLE)]
    away = [*lost, started("a", attempt=2), ended("a", TaskStatus.UNREACHABLE, touched=False)]
    assert board(*away).unavailable and board(*away).needs_rollback
    back = [*lost, started("a", attempt=2), reached("a", NEW), ended("a", TaskStatus.DONE, serves=NEW, before=NEW)]
    seen = board(*back)
    assert not seen.unavailable and seen.before == "old", "what it served before the first try is kept"
    assert seen.changed, "it was this rollout that changed it, though the second try did not"


def test_before_is_what_it_served_when_it_was_first_touched() -> None:
    reserved = [started("a"), reached("a", "old"), ended("a", TaskStatus.RESERVED, touched=False)]
    policy = RolloutSpec(reserved=Reserved.WAIT)
    seen = board(*reserved, started("a", 9), reached("a", "theirs"), ended("a", TaskStatus.DONE), policy=policy)
    assert seen.before == "theirs"


def test_a_task_whose_controller_is_gone_is_repeated_and_its_attempt_counts() -> None:
    seen = board(started("a"), reached("a", "old"), taken_up())
    assert seen.state is BoardState.WAITING and seen.attempts == 1 and seen.tried_at is None
    assert seen.unavailable and seen.serves is None and seen.needs_rollback
    assert "controller stopped at step: connect" in seen.detail


def test_a_task_whose_controller_was_stopped_is_repeated_too() -> None:
    seen = board(started("a"), ended("a", TaskStatus.ABANDONED), taken_up())
    assert seen.state is BoardState.WAITING and seen.uncertain and seen.tried_at is None


def test_a_late_board_counts_as_failed_and_its_end_still_changes_that() -> None:
    late = [started("a"), BoardLate(at=900, board="a")]
    assert board(*late).state is BoardState.LATE and board(*late).failed
    assert "exceeded board_seconds 900" in board(*late).detail
    well = board(*late, ended("a", TaskStatus.DONE, 999))
    assert well.state is BoardState.DONE and not well.failed
    lost = board(*late, ended("a", TaskStatus.UNREACHABLE, 999))
    assert lost.state is BoardState.UNREACHABLE, "its wave has gone on: it is not tried again"
    assert board(*late, taken_up()).state is BoardState.WAITING


def test_reserved_is_skipped_or_waited_for_so_long() -> None:
    taken = [started("a"), ended("a", TaskStatus.RESERVED, 100, touched=False)]
    assert board(*taken).state is BoardState.RESERVED
    wait = RolloutSpec(reserved=Reserved.WAIT, reserved_seconds=50)
    assert board(*taken, policy=wait).state is BoardState.WAITING
    again = [*taken, started("a"), ended("a", TaskStatus.RESERVED, 149, touched=False)]
    assert board(*again, policy=wait).state is BoardState.WAITING
    last = [*again, started("a"), ended("a", TaskStatus.RESERVED, 150, touched=False)]
    assert board(*last, policy=wait).state is BoardState.RESERVED


def test_a_rollback_that_ends_well_undoes_the_change() -> None:
    done = [started("a"), reached("a", "old"), ended("a", TaskStatus.DONE, changed=True)]
    seen = board(*done, started("a", work=ROLLBACK), ended("a", TaskStatus.DONE, work=ROLLBACK, changed=True))
    assert seen.state is BoardState.ROLLED_BACK and seen.serves == "old" and not seen.changed


def test_a_rollback_that_does_not_reach_the_board_leaves_it_as_it_is() -> None:
    done = [started("a"), reached("a", "old"), ended("a", TaskStatus.DONE, changed=True)]
    away = ended("a", TaskStatus.UNREACHABLE, work=ROLLBACK, touched=False)
    once = board(*done, started("a", work=ROLLBACK), away)
    assert once.state is BoardState.WAITING and once.work is ROLLBACK and once.lost_attempts == 1
    twice = board(*done, started("a", work=ROLLBACK), away, started("a", work=ROLLBACK, attempt=2), away)
    assert twice.state is BoardState.UNREACHABLE and twice.changed and twice.serves == NEW and not twice.failed


def rollout(*events: Event, plan: RolloutPlanned | None = None) -> RolloutView:
    return replay([plan or planned(0, 0, 1), *events])


def test_one_failure_too_many_stops_it_for_good() -> None:
    events = [started("a"), BoardLate(at=900, board="a")]
    assert rollout(*events).stopped_wave == 0 and rollout(*events).phase(901) is Phase.STOPPING
    assert rollout(*events, ended("a", TaskStatus.DONE, 950)).phase(951) is Phase.STOPPING, (
        "though it ended well at last"
    )
    one = planned(0, 0, 1, policy=RolloutSpec(max_failures=1))
    assert rollout(*events, plan=one).stopped_wave is None
    assert rollout(*events, started("b"), ended("b", TaskStatus.FAILED), plan=one).stopped_wave == 0


def test_orders() -> None:
    assert rollout(order(RolloutCommand.PAUSE)).phase(9) is Phase.PAUSED
    assert rollout(order(RolloutCommand.PAUSE), order(RolloutCommand.RESUME)).phase(9) is Phase.RUNNING
    assert rollout(order(RolloutCommand.ABORT), order(RolloutCommand.RESUME)).phase(9) is Phase.STOPPING


def test_a_wave_soaks_then_waits_for_its_approval() -> None:
    plan = planned(0, 1, 2, approvals=(1, 2), soak=10)
    events = [WaveEnded(at=100, wave=0)]
    assert rollout(*events, plan=plan).phase(109) is Phase.SOAKING
    assert rollout(*events, plan=plan).phase(110) is Phase.APPROVAL
    assert rollout(*events, order(RolloutCommand.APPROVE), plan=plan).phase(110) is Phase.RUNNING, (
        "the first that waits"
    )
    assert rollout(*events, order(RolloutCommand.APPROVE, 2), plan=plan).phase(110) is Phase.APPROVAL, (
        "another's approval"
    )
    twice = [order(RolloutCommand.APPROVE), order(RolloutCommand.APPROVE), order(RolloutCommand.APPROVE)]
    assert rollout(*events, *twice, plan=plan).approved == {1, 2}


def test_it_ends_once_and_says_how() -> None:
    seen = rollout(RolloutFinished(at=9, result=RolloutResult.ABORTED, why="so"), order(RolloutCommand.RESUME))
    assert seen.phase(10) is Phase.FINISHED and (seen.result, seen.why) == (RolloutResult.ABORTED, "so")
