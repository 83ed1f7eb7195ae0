"""The controller with real threads and a real journal: errors, commands, Ctrl-C and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bpudeploy import BpudeployError
from bpudeploy.errors import BoardError, ConnectionLost, Unreachable, UsageError
from bpudeploy.fleet.controller import ControllerSettings, WorkerThreads, result_of_error, run_rollout
from bpudeploy.fleet.events import (
    BoardEnded,
    BoardStarted,
    BoardTask,
    Event,
    ReportProgress,
    RolloutCommand,
    RolloutPlanned,
    RolloutResult,
    StepReached,
    TaskKind,
    TaskResult,
    TaskStatus,
)
from bpudeploy.fleet.journal import Journal, append, create, take_control
from bpudeploy.fleet.view import BoardState, RolloutView, replay
from bpudeploy.spec.fleet import RolloutSpec
from tests.fleet.test_view import order, planned

QUICK = ControllerSettings(max_unavailable=10, poll_seconds=0.1, retry_seconds=0.05, grace_seconds=0.5)


def fine(task: BoardTask, report: ReportProgress) -> TaskResult:
    report("connect", "a board", serves="old")
    report("push")
    return TaskResult(ending=TaskStatus.DONE, changed=True, serves="new", before="old")


class Half:
    """A worker that is fine on most boards."""

    def __init__(self, **errors: Exception) -> None:
        self._errors = errors

    def __call__(self, task: BoardTask, report: ReportProgress) -> TaskResult:
        if task.plan.board in self._errors and task.work is TaskKind.UPDATE:
            raise self._errors[task.plan.board]
        return fine(task, report)


def run(
    path: Path, worker: object, settings: ControllerSettings = QUICK, seen_events: list[Event] | None = None
) -> RolloutView:
    assert callable(worker)
    with take_control(path) as log:
        return run_rollout(
            log, WorkerThreads(worker), settings, (seen_events if seen_events is not None else []).append
        )


def test_a_rollout_is_brought_to_its_end_and_every_step_is_in_the_journal(tmp_path: Path) -> None:
    path, seen_events = create(tmp_path, planned(0, 1, 1)), list[Event]()
    seen = run(path, fine, seen_events=seen_events)
    assert seen.result is RolloutResult.COMPLETE and {b.state for b in seen.boards.values()} == {BoardState.DONE}
    events = Journal(path).read_new()
    assert tuple(seen_events) == events and replay(events) == seen
    assert [e.event for e in events if not isinstance(e, RolloutPlanned) and getattr(e, "board", "a") == "a"] == [
        *("controlled", "started", "reached", "reached", "ended", "wave_ended", "wave_ended", "finished")
    ]


def test_an_ended_rollout_is_left_alone(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    run(path, fine)
    before = path.read_bytes()
    assert run(path, fine).result is RolloutResult.COMPLETE and path.read_bytes() == before


def test_errors_of_work_are_a_boards_and_never_the_controllers(tmp_path: Path) -> None:
    away = Unreachable("no answer", board="b", step="connect")
    lost = ConnectionLost("lost", board="c", step="push")
    full = BoardError("no space", board="d", step="push")
    key = BoardError("another host key", board="f", step="connect")
    path = create(tmp_path, planned(*[0] * 6, policy=RolloutSpec(max_failures=5)))
    seen = run(path, Half(b=away, c=lost, d=full, e=ZeroDivisionError("oh"), f=key))
    states = {name: board.state for name, board in seen.boards.items()}
    assert states == {
        "a": BoardState.DONE,
        "b": BoardState.UNREACHABLE,
        "c": BoardState.UNREACHABLE,
        "d": BoardState.FAILED,
        "e": BoardState.FAILED,
        "f": BoardState.FAILED,
    }
    assert seen.boards["b"].detail == "board 'b', connect: no answer" and not seen.boards["b"].uncertain
    assert seen.boards["c"].uncertain and seen.boards["c"].attempts == 2
    assert seen.boards["d"].uncertain and not seen.boards["f"].uncertain
    assert seen.boards["e"].detail == "ZeroDivisionError: oh"
    assert seen.result is RolloutResult.INCOMPLETE


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert result_of_error(TimeoutError()).detail == "TimeoutError: TimeoutError"
    assert result_of_error(UsageError("no such key")).detail == "no such key"


def test_a_bad_release_stops_at_the_canary_and_the_canary_goes_back(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0, 1, 1))
    seen = run(path, Half(b=BoardError("the golden images differ", board="b", step="gate")), seen_events=[])
    assert seen.result is RolloutResult.FAILED and seen.boards["a"].state is BoardState.ROLLED_BACK
    assert [b.state for b in seen.boards_of_wave(1)] == [BoardState.WAITING] * 2


def test_a_dead_board_delays_no_other(tmp_path: Path) -> None:
    never = threading.Event()

    def worker(task: BoardTask, report: ReportProgress) -> TaskResult:
        if task.plan.board == "a":
            never.wait(20)
        return fine(task, report)

    path = create(tmp_path, planned(*[0] * 20, policy=RolloutSpec(max_failures=1, board_seconds=1)))
    began = time.monotonic()
    seen_events: list[Event] = []
    seen = run(path, worker, seen_events=seen_events)
    assert seen.result is RolloutResult.INCOMPLETE and seen.boards["a"].state is BoardState.LATE
    ended = [e.at for e in seen_events if isinstance(e, BoardEnded)]
    assert len(ended) == 19 and max(ended) - seen.boards["b"].plan.wave - seen_events[1].at < 1
    assert time.monotonic() - began < 5
    never.set()


def test_a_worker_continues_only_when_its_report_is_on_disk(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))

    def worker(task: BoardTask, report: ReportProgress) -> TaskResult:
        report("connect", serves="old")
        said = [e for e in Journal(path).read_new() if isinstance(e, StepReached)]
        assert said and said[0].serves == "old"
        return TaskResult(ending=TaskStatus.DONE)

    assert run(path, worker).result is RolloutResult.COMPLETE


def test_orders_from_another_process_are_noticed_at_once(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 1, approvals=(0,)))
    append(path, order(RolloutCommand.PAUSE))
    seen_events: list[Event] = []
    thread = threading.Thread(target=run, args=(path, fine, ControllerSettings(1), seen_events), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert not any(isinstance(e, BoardStarted) for e in seen_events)
    append(path, order(RolloutCommand.APPROVE))
    append(path, order(RolloutCommand.RESUME))
    began = time.monotonic()
    thread.join(5)
    assert not thread.is_alive() and time.monotonic() - began < 1.5


def test_a_waiting_controller_takes_no_time_of_the_processor(tmp_path: Path) -> None:
    path = create(tmp_path, planned(*[0] * 100, approvals=(0,)))
    thread = threading.Thread(target=run, args=(path, fine, ControllerSettings(1)), daemon=True)
    thread.start()
    time.sleep(0.5)
    began = time.process_time()
    time.sleep(2)
    assert time.process_time() - began < 0.3
    append(path, order(RolloutCommand.ABORT))
    thread.join(5)
    assert not thread.is_alive()


def test_a_listener_that_fails_warns_and_stops_nothing(tmp_path: Path) -> None:
    def broken(event: Event) -> None:
        raise ValueError("no terminal")

    path = create(tmp_path, planned(0))
    with take_control(path) as log, pytest.warns(RuntimeWarning, match="no longer shown"):
        assert run_rollout(log, WorkerThreads(fine), QUICK, broken).result is RolloutResult.COMPLETE


def test_a_disk_that_is_full_ends_the_controller_before_the_work(tmp_path: Path) -> None:
    class Full(Journal):
        def append(self, *events: Event) -> None:
            if any(isinstance(e, BoardStarted) for e in events):
                raise OSError("disk full")
            super().append(*events)

    path, worked = create(tmp_path, planned(0)), list[str]()

    def worker(task: BoardTask, report: ReportProgress) -> TaskResult:
        worked.append(task.plan.board)
        return fine(task, report)

    with pytest.raises(OSError, match="disk full"):
        run_rollout(Full(path), WorkerThreads(worker), QUICK)
    assert worked == []
    assert run(path, worker).result is RolloutResult.COMPLETE


RUNS = """
import sys, time
from pathlib import Path
from bpudeploy.fleet.controller import ControllerSettings, WorkerThreads, run_rollout
from bpudeploy.fleet.events import TaskStatus, TaskResult
from bpudeploy.fleet.journal import take_control

def worker(task, report):
    report("connect", serves="old")
    print("at work", flush=True)
    for _ in range(SECONDS * 20):
        time.sleep(0.05)
        report("push")
    return TaskResult(ending=TaskStatus.DONE, changed=True, serves="new")

with take_control(Path(sys.argv[1])) as log:
    run_rollout(log, WorkerThreads(worker), ControllerSettings(1, poll_seconds=0.1, grace_seconds=GRACE))
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
    seen = replay(Journal(path).read_new())
    assert [b.state for b in seen.boards.values()] == [BoardState.DONE, BoardState.WAITING] and seen.result is None
    assert run(path, fine).result is RolloutResult.COMPLETE


def test_after_the_grace_work_is_abandoned_and_the_next_controller_looks_again(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0))
    process = start(path, seconds=60, grace=0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    last = Journal(path).read_new()[-1]
    assert isinstance(last, BoardEnded) and last.ending is TaskStatus.ABANDONED
    seen_events: list[Event] = []
    assert run(path, fine, seen_events=seen_events).result is RolloutResult.COMPLETE
    assert [e.attempt for e in seen_events if isinstance(e, BoardStarted) and e.board == "a"] == [1, 2]


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    process = start(path, seconds=60, grace=60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert run(path, fine).result is RolloutResult.COMPLETE


def test_the_next_controller_resumes_after_a_kill_and_forgets_no_board(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0))
    process = start(path, seconds=60, grace=60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=5)
    seen = run(path, fine)
    assert seen.result is RolloutResult.COMPLETE and seen.boards["a"].attempts == 2 and seen.boards["a"].before == "old"


def test_a_worker_whose_controller_is_gone_is_told_to_stop() -> None:
    ended = list[BaseException]()

    def worker(task: BoardTask, report: ReportProgress) -> TaskResult:
        try:
            report("connect")
        except BpudeployError as error:
            ended.append(error)
            raise
        raise AssertionError("it went on")

    pool = WorkerThreads(worker)
    pool.start(BoardTask(plan=planned(0).places[0], work=TaskKind.UPDATE, before=None))
    time.sleep(0.1)
    pool.close()
    time.sleep(1)
    assert "controller of the rollout is gone" in str(ended[0])
