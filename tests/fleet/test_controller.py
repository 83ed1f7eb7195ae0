"""The controller with real threads and a real journal: errors, orders, Ctrl-C, kills, and who waits for whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bpudeploy.errors import BoardError, BpudeployError, ConnectionLost, Unreachable, UsageError
from bpudeploy.fleet.controller import Terms, Threads, outcome_of, run_rollout
from bpudeploy.fleet.events import (
    Ended,
    Ending,
    Event,
    Job,
    Order,
    Outcome,
    Planned,
    Reached,
    Result,
    Started,
    Tell,
    Work,
)
from bpudeploy.fleet.journal import Journal, append, controlled, create
from bpudeploy.fleet.view import RolloutView, State, view
from bpudeploy.spec.fleet import RolloutSpec
from tests.fleet.test_view import order, planned

QUICK = Terms(max_unavailable=10, poll_seconds=0.1, retry_seconds=0.05, grace_seconds=0.5)


def fine(job: Job, tell: Tell) -> Outcome:
    tell("connect", "a board", serves="old")
    tell("push")
    return Outcome(ending=Ending.DONE, changed=True, serves="new", before="old")


class Half:
    """A worker that is fine on most boards."""

    def __init__(self, **errors: Exception) -> None:
        self._errors = errors

    def __call__(self, job: Job, tell: Tell) -> Outcome:
        if job.place.board in self._errors and job.work is Work.UPDATE:
            raise self._errors[job.place.board]
        return fine(job, tell)


def rolls(path: Path, works: object, terms: Terms = QUICK, heard: list[Event] | None = None) -> RolloutView:
    assert callable(works)
    with controlled(path) as book:
        return run_rollout(book, Threads(works), terms, (heard if heard is not None else []).append)


def test_a_rollout_is_brought_to_its_end_and_every_step_is_in_the_journal(tmp_path: Path) -> None:
    path, heard = create(tmp_path, planned(0, 1, 1)), list[Event]()
    seen = rolls(path, fine, heard=heard)
    assert seen.result is Result.COMPLETE and {b.state for b in seen.boards.values()} == {State.DONE}
    events = Journal(path).read_new()
    assert tuple(heard) == events and view(events) == seen
    assert [e.event for e in events if not isinstance(e, Planned) and getattr(e, "board", "a") == "a"] == [
        *("controlled", "started", "reached", "reached", "ended", "wave_ended", "wave_ended", "finished")
    ]


def test_an_ended_rollout_is_left_alone(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    rolls(path, fine)
    before = path.read_bytes()
    assert rolls(path, fine).result is Result.COMPLETE and path.read_bytes() == before


def test_errors_of_work_are_a_boards_and_never_the_controllers(tmp_path: Path) -> None:
    away = Unreachable("no answer", board="b", step="connect")
    lost = ConnectionLost("lost", board="c", step="push")
    full = BoardError("no space", board="d", step="push")
    key = BoardError("another host key", board="f", step="connect")
    path = create(tmp_path, planned(*[0] * 6, policy=RolloutSpec(max_failures=5)))
    seen = rolls(path, Half(b=away, c=lost, d=full, e=ZeroDivisionError("oh"), f=key))
    states = {name: board.state for name, board in seen.boards.items()}
    assert states == {
        "a": State.DONE,
        "b": State.UNREACHABLE,
        "c": State.UNREACHABLE,
        "d": State.FAILED,
        "e": State.FAILED,
        "f": State.FAILED,
    }
    assert seen.boards["b"].detail == "board 'b', connect: no answer" and not seen.boards["b"].doubtful
    assert seen.boards["c"].doubtful and seen.boards["c"].attempts == 2
    assert seen.boards["d"].doubtful and not seen.boards["f"].doubtful
    assert seen.boards["e"].detail == "ZeroDivisionError: oh"
    assert seen.result is Result.INCOMPLETE


def test_an_error_with_no_words_is_still_named() -> None:
    assert outcome_of(TimeoutError()).detail == "TimeoutError: TimeoutError"
    assert outcome_of(UsageError("no such key")).detail == "no such key"


def test_a_bad_release_stops_at_the_canary_and_the_canary_goes_back(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0, 1, 1))
    seen = rolls(path, Half(b=BoardError("the golden images differ", board="b", step="gate")), heard=[])
    assert seen.result is Result.FAILED and seen.boards["a"].state is State.ROLLED_BACK
    assert [b.state for b in seen.of_wave(1)] == [State.WAITING] * 2


def test_a_dead_board_delays_no_other(tmp_path: Path) -> None:
    never = threading.Event()

    def works(job: Job, tell: Tell) -> Outcome:
        if job.place.board == "a":
            never.wait(20)
        return fine(job, tell)

    path = create(tmp_path, planned(*[0] * 20, policy=RolloutSpec(max_failures=1, board_seconds=1)))
    began = time.monotonic()
    heard: list[Event] = []
    seen = rolls(path, works, heard=heard)
    assert seen.result is Result.INCOMPLETE and seen.boards["a"].state is State.LATE
    ended = [e.at for e in heard if isinstance(e, Ended)]
    assert len(ended) == 19 and max(ended) - seen.boards["b"].place.wave - heard[1].at < 1
    assert time.monotonic() - began < 5
    never.set()


def test_a_worker_goes_on_only_when_what_it_said_is_on_the_disk(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))

    def works(job: Job, tell: Tell) -> Outcome:
        tell("connect", serves="old")
        said = [e for e in Journal(path).read_new() if isinstance(e, Reached)]
        assert said and said[0].serves == "old"
        return Outcome(ending=Ending.DONE)

    assert rolls(path, works).result is Result.COMPLETE


def test_orders_from_another_process_are_noticed_at_once(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 1, approvals=(0,)))
    append(path, order(Order.PAUSE))
    heard: list[Event] = []
    thread = threading.Thread(target=rolls, args=(path, fine, Terms(1), heard), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert not any(isinstance(e, Started) for e in heard)
    append(path, order(Order.APPROVE))
    append(path, order(Order.RESUME))
    began = time.monotonic()
    thread.join(5)
    assert not thread.is_alive() and time.monotonic() - began < 1.5


def test_a_waiting_controller_takes_no_time_of_the_processor(tmp_path: Path) -> None:
    path = create(tmp_path, planned(*[0] * 100, approvals=(0,)))
    thread = threading.Thread(target=rolls, args=(path, fine, Terms(1)), daemon=True)
    thread.start()
    time.sleep(0.5)
    began = time.process_time()
    time.sleep(2)
    assert time.process_time() - began < 0.3
    append(path, order(Order.ABORT))
    thread.join(5)
    assert not thread.is_alive()


def test_a_listener_that_fails_warns_and_stops_nothing(tmp_path: Path) -> None:
    def broken(event: Event) -> None:
        raise ValueError("no terminal")

    path = create(tmp_path, planned(0))
    with controlled(path) as book, pytest.warns(RuntimeWarning, match="is shown no more"):
        assert run_rollout(book, Threads(fine), QUICK, broken).result is Result.COMPLETE


def test_a_disk_that_is_full_ends_the_controller_before_the_work(tmp_path: Path) -> None:
    class Full(Journal):
        def append(self, *events: Event) -> None:
            if any(isinstance(e, Started) for e in events):
                raise OSError("disk full")
            super().append(*events)

    path, worked = create(tmp_path, planned(0)), list[str]()

    def works(job: Job, tell: Tell) -> Outcome:
        worked.append(job.place.board)
        return fine(job, tell)

    with pytest.raises(OSError, match="disk full"):
        run_rollout(Full(path), Threads(works), QUICK)
    assert worked == []
    assert rolls(path, works).result is Result.COMPLETE


RUNS = """
import sys, time
from pathlib import Path
from bpudeploy.fleet.controller import Terms, Threads, run_rollout
from bpudeploy.fleet.events import Ending, Outcome
from bpudeploy.fleet.journal import controlled

def works(job, tell):
    tell("connect", serves="old")
    print("at work", flush=True)
    for _ in range(SECONDS * 20):
        time.sleep(0.05)
        tell("push")
    return Outcome(ending=Ending.DONE, changed=True, serves="new")

with controlled(Path(sys.argv[1])) as book:
    run_rollout(book, Threads(works), Terms(1, poll_seconds=0.1, grace_seconds=GRACE))
"""


def start(path: Path, seconds: int, grace: float) -> subprocess.Popen[bytes]:
    code = RUNS.replace("SECONDS", str(seconds)).replace("GRACE", str(grace))
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"at work\n"
    return process


def test_ctrl_c_lets_end_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0))
    process = start(path, seconds=1, grace=20)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]
    seen = view(Journal(path).read_new())
    assert [b.state for b in seen.boards.values()] == [State.DONE, State.WAITING] and seen.result is None
    assert rolls(path, fine).result is Result.COMPLETE


def test_after_the_grace_work_is_abandoned_and_the_next_controller_looks_again(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0))
    process = start(path, seconds=60, grace=0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    last = Journal(path).read_new()[-1]
    assert isinstance(last, Ended) and last.ending is Ending.ABANDONED
    heard: list[Event] = []
    assert rolls(path, fine, heard=heard).result is Result.COMPLETE
    assert [e.attempt for e in heard if isinstance(e, Started) and e.board == "a"] == [1, 2]


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    process = start(path, seconds=60, grace=60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert rolls(path, fine).result is Result.COMPLETE


def test_a_killed_controller_is_gone_on_from_and_no_board_is_forgotten(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0))
    process = start(path, seconds=60, grace=60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=5)
    seen = rolls(path, fine)
    assert seen.result is Result.COMPLETE and seen.boards["a"].attempts == 2 and seen.boards["a"].before == "old"


def test_a_worker_whose_controller_is_gone_is_told_to_stop() -> None:
    ended = list[BaseException]()

    def works(job: Job, tell: Tell) -> Outcome:
        try:
            tell("connect")
        except BpudeployError as error:
            ended.append(error)
            raise
        raise AssertionError("it went on")

    crew = Threads(works)
    crew.begin(Job(place=planned(0).places[0], work=Work.UPDATE, before=None))
    time.sleep(0.1)
    crew.close()
    time.sleep(1)
    assert "controller of the rollout is gone" in str(ended[0])
