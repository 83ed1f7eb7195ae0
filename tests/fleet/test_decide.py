"""What a rollout does next: waves, thresholds and ``max_unavailable``."""

from __future__ import annotations

from bpudeploy.fleet.decide import RETRY_S, Decision, decide
from bpudeploy.fleet.events import (
    BoardLate,
    BoardStarted,
    Event,
    RolloutCommand,
    RolloutFinished,
    RolloutPlanned,
    RolloutResult,
    TaskKind,
    TaskStatus,
    WaveEnded,
)
from bpudeploy.fleet.view import replay
from bpudeploy.spec.fleet import OnFailure, Reserved, RolloutSpec
from tests.fleet.test_view import ROLLBACK, ended, order, planned, reached, started, taken_up


def ask(plan: RolloutPlanned, *events: Event, now: float = 10, at_once: int = 9, in_window: bool = True) -> Decision:
    return decide(replay([plan, *events]), now, in_window, at_once)


def begun(decision: Decision) -> list[str]:
    """Return the boards that a decision begins work on; its events announce just that."""
    announced = [(e.board, e.work) for e in decision.events if isinstance(e, BoardStarted)]
    assert announced == [(job.plan.board, job.work) for job in decision.start]
    return [name for name, _ in announced]


def finish(decision: Decision) -> tuple[RolloutResult, str]:
    (event,) = decision.events
    assert isinstance(event, RolloutFinished)
    return event.result, event.why


def done(name: str, at: float = 3) -> list[Event]:
    return [started(name), reached(name, "old"), ended(name, TaskStatus.DONE, at, changed=True)]


def failed(name: str, at: float = 3, **more: object) -> list[Event]:
    return [started(name), reached(name, "old"), ended(name, TaskStatus.FAILED, at, TaskKind.UPDATE, **more)]


def lost(name: str, at: float = 3) -> list[Event]:
    return [started(name), reached(name, "old"), ended(name, TaskStatus.UNREACHABLE, at)]


MANY = RolloutSpec(max_failures=9)


def test_the_first_wave_begins_and_no_more_of_it_than_may_be_out_of_service() -> None:
    assert begun(ask(planned(0, 0, 0, 1))) == ["a", "b", "c"]
    assert begun(ask(planned(0, 0, 0, 1), at_once=2)) == ["a", "b"]
    assert begun(ask(planned(0, 0, 0, 1), started("a"), at_once=2)) == ["b"]
    full = ask(planned(0, 0, 0, 1), started("a"), started("b"), at_once=2)
    assert begun(full) == [] and full.waits == "max_unavailable 2 is reached"


def test_the_next_wave_begins_when_every_board_of_the_one_before_has_ended() -> None:
    plan = planned(0, 0, 1, soak=20)
    assert ask(plan, *done("a"), started("b")).events == ()
    both = [*done("a"), *done("b")]
    assert ask(plan, *both).events == (WaveEnded(at=10, wave=0),)
    soaking = ask(plan, *both, WaveEnded(at=10, wave=0), now=29)
    assert (soaking.waits, soaking.until) == ("wave 1 of 2 soaks", 30)
    assert begun(ask(plan, *both, WaveEnded(at=10, wave=0), now=30)) == ["c"]


def test_a_wave_waits_for_its_approval() -> None:
    plan = planned(0, 1, approvals=(0, 1))
    waiting = ask(plan)
    assert waiting.waits == "wave 1 of 2 waits for approval" and waiting.until is None
    assert begun(ask(plan, order(RolloutCommand.APPROVE))) == ["a"]


def test_all_done_is_complete_and_anything_less_is_not() -> None:
    assert finish(ask(planned(0), *done("a"), WaveEnded(at=5, wave=0))) == (
        RolloutResult.COMPLETE,
        "boards updated: 1",
    )
    some = [*done("a"), *failed("b", serves="old"), WaveEnded(at=5, wave=0)]
    result, why = finish(ask(planned(0, 0, policy=MANY), *some))
    assert (result, why) == (RolloutResult.INCOMPLETE, "boards updated: 1 of 2; 1 failed")


def test_a_rollout_of_no_board_is_complete() -> None:
    assert finish(ask(planned()))[0] is RolloutResult.COMPLETE


def test_failed_boards_that_did_not_come_back_take_the_place_of_others() -> None:
    plan = planned(0, 0, 0, policy=MANY)
    assert begun(ask(plan, *failed("a"), at_once=2)) == ["b"]
    assert begun(ask(plan, *failed("a", serves="old"), at_once=2)) == ["b", "c"]


def test_when_all_places_are_taken_by_boards_that_do_not_come_back_it_ends_and_says_so() -> None:
    result, why = finish(ask(planned(0, 0, 0, policy=MANY), *failed("a"), at_once=1))
    assert result is RolloutResult.INCOMPLETE
    assert why == "boards out of service: 1, allowed: 1; not updated in this wave: 2"


def test_a_lost_board_is_tried_again_later_and_takes_no_second_place() -> None:
    plan = planned(0, 0)
    waits = ask(plan, *lost("a"), at_once=1)
    assert not waits.events and waits.until == 3 + RETRY_S
    assert begun(ask(plan, *lost("a"), at_once=1, now=3 + RETRY_S)) == ["a"]
    assert begun(ask(plan, *lost("a"), at_once=2, now=3 + RETRY_S)) == ["b", "a"], "who was never tried comes first"


def test_a_board_whose_controller_is_gone_is_looked_at_first_and_at_once() -> None:
    assert begun(ask(planned(0, 0), started("a"), taken_up(), at_once=1)) == ["a"]


def test_a_reserved_board_gets_its_last_try_just_when_the_patience_ends() -> None:
    plan = planned(0, policy=RolloutSpec(reserved=Reserved.WAIT, reserved_seconds=RETRY_S * 1.5))
    first = [started("a"), ended("a", TaskStatus.RESERVED, 100, touched=False)]
    assert ask(plan, *first, now=101).until == 100 + RETRY_S
    again = [*first, started("a"), ended("a", TaskStatus.RESERVED, 100 + RETRY_S, touched=False)]
    assert ask(plan, *again, now=101 + RETRY_S).until == 100 + RETRY_S * 1.5


def test_pause_and_windows_begin_nothing_and_end_what_has_ended() -> None:
    assert ask(planned(0), order(RolloutCommand.PAUSE)).waits == "paused"
    assert ask(planned(0), *done("a"), order(RolloutCommand.PAUSE)).events == (WaveEnded(at=10, wave=0),), (
        "its soak begins"
    )
    assert ask(planned(0), in_window=False).waits == "outside the maintenance windows"
    assert finish(ask(planned(0), *done("a"), WaveEnded(at=5, wave=0), in_window=False))[0] is RolloutResult.COMPLETE


def test_a_board_over_its_time_limit_is_late_and_its_wave_continues() -> None:
    plan = planned(0, 1, policy=MANY)
    assert ask(plan, started("a", 1), now=900).until == 901
    assert ask(plan, started("a", 1), now=901).events == (BoardLate(at=901, board="a"),)
    late = [started("a", 1), BoardLate(at=901, board="a")]
    assert ask(plan, *late, now=902).events == (WaveEnded(at=902, wave=0),)
    assert begun(ask(plan, *late, WaveEnded(at=902, wave=0), now=903)) == ["b"]


def test_late_boards_whose_controller_is_gone_are_looked_at_again_wave_by_wave() -> None:
    late = [started("a", 1), BoardLate(at=901, board="a"), WaveEnded(at=902, wave=0)]
    late += [started("b", 902), BoardLate(at=1802, board="b"), WaveEnded(at=1803, wave=1), taken_up(1804)]
    plan = planned(0, 1, 2, policy=MANY, approvals=(2,))
    assert begun(ask(plan, *late, now=1805)) == ["a"]
    assert begun(ask(plan, *late, *done("a", 1806), now=1807)) == ["b"]


def test_a_late_board_delays_the_end_by_at_most_its_time_limit_again() -> None:
    events = [started("a", 1), BoardLate(at=901, board="a"), WaveEnded(at=902, wave=0)]
    held = ask(planned(0, policy=MANY), *events, now=1800)
    assert (held.waits, held.until) == ("boards late: 1", 1801)
    assert finish(ask(planned(0, policy=MANY), *events, now=1801)) == (
        RolloutResult.INCOMPLETE,
        "boards updated: 0 of 1; 1 late",
    )


def stops(how: OnFailure, *waves: int) -> RolloutPlanned:
    return planned(*waves, policy=RolloutSpec(on_failure=how))


TWO_WAVES = [*done("a"), WaveEnded(at=4, wave=0), *done("b"), *failed("c", serves="old")]


def test_running_updates_end_before_boards_are_rolled_back() -> None:
    plan = stops(OnFailure.ROLLBACK_ALL, 0, 0, 0)
    events = [*done("a"), started("b"), *failed("c", serves="old")]
    assert ask(plan, *events).waits == "stopped: running updates end"
    back = ask(plan, *events, ended("b", TaskStatus.UNREACHABLE, touched=False))
    assert begun(back) == ["a"] and back.start[0].work is ROLLBACK and back.start[0].before == "old"


def test_the_policy_decides_which_boards_are_rolled_back() -> None:
    assert begun(ask(stops(OnFailure.ROLLBACK_ALL, 0, 1, 1, 1), *TWO_WAVES)) == ["a", "b"]
    assert begun(ask(stops(OnFailure.ROLLBACK_WAVE, 0, 1, 1, 1), *TWO_WAVES)) == ["b"]
    result, why = finish(ask(stops(OnFailure.STOP, 0, 1, 1, 1), *TWO_WAVES))
    assert (result, why) == (RolloutResult.FAILED, "boards failed: 1, allowed: 0; 1 waiting, 2 done, 1 failed")


def test_a_board_is_rolled_back_if_it_may_have_been_changed() -> None:
    same = [started("b"), reached("b", "new"), ended("b", TaskStatus.DONE, serves="new")]
    events = [*lost("a"), *same, *failed("c", touched=False)]
    assert begun(ask(stops(OnFailure.ROLLBACK_WAVE, 0, 0, 0), *events, now=3 + RETRY_S)) == ["a"]
    unmet = [started("a"), taken_up(), *failed("b", touched=False)]
    assert finish(ask(stops(OnFailure.ROLLBACK_WAVE, 0, 0), *unmet))[0] is RolloutResult.FAILED, (
        "never met, never changed"
    )


def test_rollbacks_wait_for_no_window_and_no_pause_but_for_max_unavailable() -> None:
    plan = stops(OnFailure.ROLLBACK_ALL, 0, 0, 0)
    events = [*done("a"), *done("b"), *failed("c", touched=False), order(RolloutCommand.PAUSE)]
    assert begun(ask(plan, *events, in_window=False)) == ["a", "b"]
    assert begun(ask(plan, *events, at_once=1)) == ["a"]
    dead = [*done("a"), *done("b"), started("c"), ended("c", TaskStatus.FAILED)]
    assert begun(ask(plan, *dead, at_once=1)) == ["a"], "one at a time where there is no room"
    assert begun(ask(plan, *dead, started("a", work=ROLLBACK), at_once=1)) == []


def test_a_rollback_that_did_not_reach_its_board_is_tried_again_and_then_given_up() -> None:
    plan = stops(OnFailure.ROLLBACK_ALL, 0, 0)
    away = [started("a", work=ROLLBACK), ended("a", TaskStatus.UNREACHABLE, 20, ROLLBACK, touched=False)]
    events = [*done("a"), *failed("b", touched=False), *away]
    assert ask(plan, *events, now=21).until == 20 + RETRY_S
    again = ask(plan, *events, now=20 + RETRY_S)
    assert begun(again) == ["a"] and again.events[0] == started("a", 20 + RETRY_S, ROLLBACK, 2)
    assert finish(ask(plan, *events, *away, now=99)) == (
        RolloutResult.FAILED,
        "boards failed: 1, allowed: 0; 1 failed, 1 unreachable",
    )


def test_abort_lets_running_tasks_end_and_leaves_boards_as_they_are() -> None:
    plan = stops(OnFailure.ROLLBACK_ALL, 0, 0, 0)
    events = [*done("a"), started("b"), order(RolloutCommand.ABORT)]
    assert ask(plan, *events).waits == "aborted: running tasks end"
    result, why = finish(ask(plan, *events, ended("b", TaskStatus.FAILED)))
    assert (result, why) == (RolloutResult.ABORTED, "boards stay as they are: 1 waiting, 1 done, 1 failed")


def test_after_the_end_there_is_nothing_to_do() -> None:
    over = RolloutFinished(at=9, result=RolloutResult.ABORTED, why="")
    assert ask(planned(0, 0), over) == Decision(waits="finished: aborted")


def test_an_update_tells_its_worker_what_the_board_served_before_the_first_try() -> None:
    (job,) = ask(planned(0), *lost("a"), now=99).start
    assert job.work is TaskKind.UPDATE and job.before == "old"
