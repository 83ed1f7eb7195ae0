"""What a night would do: quarantine, the schedule, and the boards at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy import LoadedRecipe, Recipe
from bpudeploy.effects.reservation import NO_END, Reservation
from bpudeploy.errors import BoardError, Mark, StoreError
from bpudeploy.nightly.job_queue import JobQueue, QueuedJob, QueueSettings, QueueState
from bpudeploy.nightly.night import BoardFault, JobResult, JobState, Night
from bpudeploy.nightly.plan import TimeEstimate, quarantined, schedule
from bpudeploy.nightly.suite import LOCAL_BOARD, Job
from bpudeploy.spec.load import load_target
from bpudeploy.spec.recipe import DatasetSpec, ModelSpec
from bpudeploy.spec.suite import NightlyChecks, QuarantineSpec
from bpudeploy.spec.yamlmarks import Node

TARGET = load_target("rdk-x5", Path())[0]


def job(name: str, *boards: str, value: float = 1.0) -> Job:
    recipe = Recipe(name=name, model=ModelSpec(source="w.pth"), dataset=DatasetSpec(source="d"), target="rdk-x5")
    root = Node(Mark("r.yaml", 1, 1), Path())
    return Job(LoadedRecipe(recipe, TARGET, (Path("r.yaml"),), root), value, NightlyChecks(), False, boards)


# --- quarantine


def night(began: str, *faults: tuple[str, str]) -> Night:
    """Return a night with faults, each of a board at a time."""
    told = tuple(BoardFault(board=board, at=at, said=f"{board} did not answer") for board, at in faults)
    result = JobResult(job="a@b", recipe="a", target="b", value=1, state=JobState.MEASURED, faults=told)
    return Night(suite="s", file="s.yaml", began=began, jobs=(result,))


SPEC = QuarantineSpec(faults=2, nights=3)


def test_a_board_with_enough_faults_of_its_own_is_left_out_with_the_reason() -> None:
    nights = [night("n3", ("x", "2026-01-03T01"), ("y", "2026-01-03T02")), night("n2", ("x", "2026-01-02T01"))]
    assert quarantined(nights, SPEC) == {
        "x": "2 board faults in the last 2 nights, the latest on 2026-01-03: x did not answer"
    }


def test_it_comes_back_when_its_faults_are_older_than_the_window() -> None:
    old = [night("n2", ("x", "2026-01-02T01")), night("n1", ("x", "2026-01-01T01"))]
    assert quarantined(old, SPEC) and quarantined([night("n3"), *old], SPEC)
    assert quarantined([night("n4"), night("n3"), *old], SPEC) == {}


def test_a_person_s_word_stands() -> None:
    spec = QuarantineSpec(boards={"z": "fan broken"})
    assert quarantined([], spec) == {"z": "excluded manually: fan broken"}


# --- the schedule


@given(
    values=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50), st.sets(st.sampled_from("abc"), min_size=1))),
    budget=st.none() | st.integers(1, 200),
)
def test_no_board_has_two_jobs_at_once_and_none_runs_past_the_budget(
    values: list[tuple[int, int, set[str]]], budget: int | None
) -> None:
    jobs = [job(f"j{i}", *sorted(boards)) for i, (_, _, boards) in enumerate(values)]
    wanted = [TimeEstimate(b, m, True) for b, m, _ in values]
    slots = schedule(list(zip(jobs, wanted, strict=True)), {}, budget)
    assert [slot.job for slot in slots] == jobs
    built = 0.0
    for number, slot in enumerate(slots):
        built += slot.estimate.build_s
        if slot.board is None:
            continue
        ends = slot.begins_s + slot.estimate.board_s
        assert slot.board in slot.job.boards and slot.begins_s >= built and (budget is None or ends <= budget)
        for other in slots[:number]:
            if other.board == slot.board:
                assert other.begins_s + other.estimate.board_s <= slot.begins_s


def test_a_board_in_quarantine_is_used_by_nobody() -> None:
    one, two = job("one", "a", "b"), job("two", "a")
    needed = TimeEstimate(0, 5, True)
    slots = schedule([(one, needed), (two, needed)], {"a": "why"}, None)
    assert [slot.board for slot in slots] == ["b", None]


# --- the boards at work


@dataclass
class Boards:
    """A queue with boards that do as they are told: ``script`` maps (board, job) to what happens at each try."""

    queue: JobQueue
    script: dict[tuple[str, str], list[Exception | None]] = field(default_factory=dict)
    ran: list[tuple[str, str]] = field(default_factory=list)
    ended: dict[str, tuple[JobState, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def measure(self, queued: QueuedJob, board: str) -> None:
        name = queued.job.resolved.recipe.name
        with self.lock:
            self.ran.append((board, name))
            left = self.script.get((board, name), [])
            what = left.pop(0) if left else None
        time.sleep(0.002)
        if what is not None:
            raise what

    def open(self) -> None:
        """Let every board work until nothing is left."""
        for queued in self.queue.jobs:
            if queued.state is QueueState.BUILDING:
                self.queue.built(queued, None, 0.0)  # type: ignore[arg-type]
        boards = [
            threading.Thread(target=self.queue.serve, args=(board, self.measure), daemon=True)
            for board in self.queue.boards
        ]
        for one in boards:
            one.start()
        for one in boards:
            one.join(20)
            assert not one.is_alive(), "a board waits for ever"
        self.queue.close()

    def states(self) -> dict[str, str]:
        names = {queued.job.resolved.recipe.name: queued.job.name for queued in self.queue.jobs}
        return {
            short: self.ended[name][0] if name in self.ended else JobState.MEASURED for short, name in names.items()
        }


def shop(
    jobs: Sequence[Job],
    *,
    out: Mapping[str, str] = {},
    seconds: float = 60,
    retries: int = 2,
    wait_s: float = 0.05,
) -> Boards:
    made: dict[str, Boards] = {}

    def done(queued: QueuedJob, state: JobState, why: str) -> None:
        made["boards"].ended[queued.job.name] = (state, why)

    terms = QueueSettings(time.monotonic() + seconds, retries, wait_s, pause_s=0.01)
    made["boards"] = Boards(JobQueue(jobs, out, terms, done))
    return made["boards"]


def fault(board: str) -> BoardError:
    return BoardError("it is off", board=board, step="connect")


def reserved(board: str) -> BoardError:
    return Reservation("kim@desk", NO_END, "soak test").refusal(board=board, step="reserve")


def test_the_most_valuable_ready_job_comes_first_and_boards_share_the_work() -> None:
    one = shop([job("first", "a"), job("second", "a"), job("any", "a", "b")])
    one.open()
    assert [name for board, name in one.ran if board == "a"][:2] == ["first", "second"]
    assert ("b", "any") in one.ran and not one.ended


def test_a_fault_is_tried_again_on_another_board_and_is_kept() -> None:
    one = shop([job("j", "a", "b")])
    one.script = {("a", "j"): [fault("a")] * 9}
    one.open()
    (queued,) = one.queue.jobs
    assert one.states() == {"j": JobState.MEASURED} and one.ran in ([("b", "j")], [("a", "j"), ("b", "j")])
    assert [(f.board, "it is off" in f.said) for f in queued.faults] == [("a", True)] * (len(one.ran) - 1)


def test_after_so_many_tries_a_job_has_no_board_and_says_why() -> None:
    one = shop([job("j", "a")], retries=1)
    one.script = {("a", "j"): [fault("a")] * 9}
    one.open()
    assert len(one.ran) == 2
    state, why = one.ended["j@rdk-x5"]
    assert state is JobState.NO_BOARD and "it is off" in why


def test_a_board_that_fails_twice_in_a_row_is_used_no_more() -> None:
    one = shop([job("j", "a"), job("k", "a"), job("l", "a", "b")], retries=5)
    one.script = {("a", name): [fault("a")] * 9 for name in "jkl"}
    one.open()
    assert sum(board == "a" for board, _ in one.ran) == 2
    assert one.states() == {"j": JobState.NO_BOARD, "k": JobState.NO_BOARD, "l": JobState.MEASURED}
    assert "2 consecutive faults" in one.ended["k@rdk-x5"][1]


def test_a_reserved_board_is_no_fault_and_is_waited_for() -> None:
    one = shop([job("j", "a")], wait_s=10)
    one.script = {("a", "j"): [reserved("a"), reserved("a"), None]}
    one.open()
    assert one.states() == {"j": JobState.MEASURED} and one.queue.jobs[0].faults == []


def test_a_board_that_stays_reserved_is_given_up_and_another_takes_its_job() -> None:
    both = shop([job("j", "a", "b"), job("k", "a")])
    both.script = {("a", name): [reserved("a")] * 99 for name in "jk"}
    both.open()
    assert both.states() == {"j": JobState.MEASURED, "k": JobState.NO_BOARD}
    assert "kim@desk has reserved it" in both.ended["k@rdk-x5"][1]


def test_what_is_not_a_board_s_fault_is_not_tried_again() -> None:
    one = shop([job("j", "a"), job("k", "a")])
    one.script = {("a", "j"): [StoreError("the disk is full")]}
    one.open()
    assert one.ran == [("a", "j"), ("a", "k")] and "could not be measured: the disk is full" in one.ended["j@rdk-x5"][1]


def test_a_job_that_does_not_fit_is_left_out_and_a_shorter_one_is_not() -> None:
    one = shop([job("long", "a"), job("short", "a")], seconds=30)
    long, short = one.queue.jobs
    one.queue.built(long, None, 100.0)  # type: ignore[arg-type]
    one.queue.built(short, None, 1.0)  # type: ignore[arg-type]
    one.open()
    assert one.states() == {"long": JobState.LEFT_OUT, "short": JobState.MEASURED}
    assert "it takes about 100 s" in one.ended["long@rdk-x5"][1]


def test_this_machine_measures_nothing_while_it_builds() -> None:
    one = shop([job("built", LOCAL_BOARD), job("building", LOCAL_BOARD)])
    built, building = one.queue.jobs
    one.queue.built(built, None, 0.0)  # type: ignore[arg-type]
    board = threading.Thread(target=one.queue.serve, args=(LOCAL_BOARD, one.measure))
    board.start()
    time.sleep(0.1)
    assert one.ran == []
    one.queue.end_unmeasured(building, JobState.BUILD_FAILED, "no")
    board.join(10)
    assert one.ran == [(LOCAL_BOARD, "built")]


def test_all_boards_in_quarantine_is_said() -> None:
    one = shop([job("j", "a")], out={"a": "3 faults"})
    one.open()
    assert one.ended["j@rdk-x5"] == (JobState.NO_BOARD, "a: 3 faults")


def test_stopped_nothing_more_begins() -> None:
    one = shop([job("j", "a"), job("k", "a")])

    def stop(queued: QueuedJob, board: str) -> None:
        one.ran.append((board, queued.job.name))
        one.queue.stop()

    for queued in one.queue.jobs:
        one.queue.built(queued, None, 0.0)  # type: ignore[arg-type]
    one.queue.serve("a", stop)
    assert len(one.ran) == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_boards_do_every_job_ends_once_and_no_board_has_two(data: st.DataObject) -> None:
    boards = "abc"
    pools = data.draw(st.lists(st.sets(st.sampled_from(boards), min_size=1), min_size=1, max_size=6))
    jobs = [job(f"j{i}", *sorted(pool)) for i, pool in enumerate(pools)]
    out = dict.fromkeys(data.draw(st.sets(st.sampled_from(boards), max_size=2)), "out")
    one = shop(jobs, out=out, retries=data.draw(st.integers(0, 3)), wait_s=0.02)
    kinds: list[Callable[[str], Any]] = [lambda b: None, fault, reserved, lambda b: StoreError("s")]
    for board in boards:
        for each in jobs:
            drawn = data.draw(st.lists(st.sampled_from(kinds), max_size=3))
            one.script[board, each.resolved.recipe.name] = [kind(board) for kind in drawn]
    at_work: set[str] = set()
    inner = one.measure

    def measure(queued: QueuedJob, board: str) -> None:
        assert board not in out and board in queued.job.boards and board not in at_work
        at_work.add(board)
        try:
            inner(queued, board)
        finally:
            at_work.discard(board)

    one.measure = measure  # type: ignore[method-assign]
    one.open()
    assert all(queued.state is QueueState.DONE for queued in one.queue.jobs)
