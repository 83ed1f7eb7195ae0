"""A farm: plans beside each other, each shared step once, within its budget, and nothing left behind by any end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bpudeploy import BpudeployError
from bpudeploy.errors import OutOfTime, StageError
from bpudeploy.events import Event, StepFinished, StepStarted
from bpudeploy.planning.step import Plan, PlanBuilder
from bpudeploy.run.local import Budget, LocalExecutor
from bpudeploy.run.parallel import run_all
from bpudeploy.run.runner import RunResult, run
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.store.gc import verify
from bpudeploy.store.steps import Record, all_records
from tests.run.toy import Change, Toy, joined, stage, toy_plan

ROOMY = Budget(jobs=4, memory_mb=1e6)


@dataclass
class Heard:
    """What was told, and how many steps ran at once at most."""

    events: list[tuple[str, Event]] = field(default_factory=list)
    now: set[tuple[str, str]] = field(default_factory=set)
    most: int = 0

    def __call__(self, recipe: str, event: Event) -> None:
        self.events.append((recipe, event))
        if isinstance(event, StepStarted):
            self.now.add((recipe, event.step))
        if isinstance(event, StepFinished):
            self.now.discard((recipe, event.step))
        self.most = max(self.most, len(self.now))

    @property
    def ran(self) -> list[str]:
        return [e.step for _, e in self.events if isinstance(e, StepStarted)]


def variants(count: int, sleep: float = 0.0) -> list[Plan]:
    """Plans of one model that differ from quantize on."""
    return [toy_plan(Change(recipe=f"toy-{i}", count=str(i)), sleep) for i in range(count)]


def farm(plans: list[Plan], root: Path, budget: Budget = ROOMY) -> tuple[list[RunResult], Heard]:
    heard = Heard()
    found = run_all(plans, root, LocalExecutor(root, budget, all_records(root)), heard)
    assert all(isinstance(f, RunResult) for f in found)
    return [f for f in found if isinstance(f, RunResult)], heard


def test_a_farm_gives_what_runs_one_after_the_other_give(tmp_path: Path) -> None:
    plans = variants(3)
    together, heard = farm(plans, tmp_path / "a")
    alone = [run(plan, tmp_path / "b", lambda event: None) for plan in plans]
    for one, other in zip(together, alone, strict=True):
        assert list(one.steps) == list(other.steps)
        for name in one.steps:
            assert one.artifact(name).digest == other.artifact(name).digest
    assert heard.ran.count("fetch/weights") == heard.ran.count("restructure") == 1, "what plans share runs once"
    assert heard.ran.count("compile") == 3
    assert all(r.artifact("compile").path.is_file() for r in together) and verify(tmp_path / "a")[1] == []
    again, heard = farm(plans, tmp_path / "a")
    assert heard.ran == [] and all(not r.ran for r in again)


def test_steps_run_beside_each_other_within_the_jobs(tmp_path: Path) -> None:
    _, heard = farm(variants(4, sleep=0.2), tmp_path / "four")
    assert heard.most > 1
    _, heard = farm(variants(4), tmp_path / "one", Budget(jobs=1, memory_mb=1e6))
    assert heard.most == 1


def test_what_a_step_needed_before_counts_against_the_budget(tmp_path: Path) -> None:
    big = [
        Record(step, key, {}, (), 1.0, peak_mb=700.0)  # type: ignore[arg-type]
        for step, key in (("fetch/calibration", "a"), ("quantize", "b"), ("fetch/weights", "c"))
    ]
    heard = Heard()
    executor = LocalExecutor(tmp_path, Budget(jobs=4, memory_mb=1000.0), big)
    found = run_all(variants(3, sleep=0.05), tmp_path, executor, heard)
    assert all(isinstance(f, RunResult) for f in found)
    assert heard.most == 1, "two need 1400 MB"


def broken_plan(recipe: str, how: str) -> Plan:
    def work(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "a bug":
            raise ZeroDivisionError
        raise StageError("these weights are bad", hint="train them")

    p = PlanBuilder(recipe)
    p.add(Stage("broken", 1, (), {"model": Kind.MODEL}, work), "fetch/weights", Toy(""))
    return p.build()


@pytest.mark.parametrize(
    ("how", "message", "hint"),
    [
        ("refuses", "these weights are bad", "train them"),
        ("killed", "fetch/weights of broken-1 was killed by signal 9", "--memory"),
        ("a bug", "fetch/weights of broken-1 exited with code 1", "--jobs"),
    ],
)
def test_one_that_fails_stops_no_other(tmp_path: Path, how: str, message: str, hint: str) -> None:
    plans = [broken_plan("broken-1", how), *variants(2), broken_plan("broken-2", how)]
    first, second, third, fourth = run_all(plans, tmp_path, LocalExecutor(tmp_path, ROOMY), Heard())
    assert isinstance(first, BpudeployError) and message in first.message and hint in str(first.hint)
    assert isinstance(fourth, BpudeployError) and fourth is first, "they share the step: it fails once"
    assert isinstance(second, RunResult) and isinstance(third, RunResult)
    assert not list((tmp_path / "work").glob("*")) or how == "killed"


def test_a_forced_step_runs_once_for_all(tmp_path: Path) -> None:
    plans = variants(3)
    farm(plans, tmp_path)
    heard = Heard()
    run_all(plans, tmp_path, LocalExecutor(tmp_path, ROOMY), heard, force=["restructure"])
    assert heard.ran == ["restructure"]


SLEEPER = """
import sys, time
from pathlib import Path
from bpudeploy.run.parallel import run_all
from bpudeploy.run.local import Budget, LocalExecutor
from tests.run.test_parallel import variants
root = Path(sys.argv[1])
run_all(variants(3, sleep=60.0), root, LocalExecutor(root, Budget(4, 1e6)), lambda r, e: print(e, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_no_process_is_left_and_the_store_is_whole(tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as farming:
        assert farming.stdout is not None
        for _ in range(2):
            assert "StepStarted" in farming.stdout.readline()
        children = children_of(farming.pid)
        assert len(children) >= 2
        os.kill(farming.pid, how)
        farming.wait(30)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not list((tmp_path / "work").glob("*")), "each cleans up after itself"
    found, _ = farm(variants(3), tmp_path)
    assert len(found) == 3 and verify(tmp_path)[1] == []


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_step_of_a_third_party_may_be_a_closure(tmp_path: Path) -> None:
    word = os.urandom(4).hex()
    p = PlanBuilder("closure")
    p.add(stage("c", (), Kind.MODEL, lambda text, inputs: joined(text + word, inputs)), "fetch/model", Toy("w"))
    (found,), _ = farm([p.build()], tmp_path)
    assert word in found.artifact("fetch/model").path.read_text()


def test_plans_of_one_recipe_for_two_targets_do_not_take_each_others_steps(tmp_path: Path) -> None:
    one, other = toy_plan(Change(count="1"), sleep=0.2), toy_plan(Change(count="2"), sleep=0.2)
    assert one.recipe == other.recipe
    a, b = run_all([one, other], tmp_path, LocalExecutor(tmp_path, ROOMY), Heard())
    assert isinstance(a, RunResult) and isinstance(b, RunResult)
    assert a.artifact("fetch/calibration").digest != b.artifact("fetch/calibration").digest
    for plan, result in ((one, a), (other, b)):
        again = run(plan, tmp_path, lambda event: None)
        assert again.ran == [] and again.artifact("compile").digest == result.artifact("compile").digest


def test_no_step_begins_when_the_time_is_over_and_what_is_there_is_taken(tmp_path: Path) -> None:
    ready, missing = toy_plan(), toy_plan(Change(weights="other", recipe="other"))
    run(ready, tmp_path, lambda event: None)
    heard, ended = Heard(), []
    outcomes = run_all(
        [missing, ready],
        tmp_path,
        LocalExecutor(tmp_path, ROOMY),
        heard,
        until=time.monotonic(),
        ended=lambda index, outcome: ended.append((index, type(outcome))),
    )
    assert isinstance(outcomes[0], OutOfTime) and "other" in str(outcomes[0])
    assert isinstance(outcomes[1], RunResult)
    assert ended == [(1, RunResult), (0, OutOfTime)]
    assert not any(isinstance(event, StepStarted) for _, event in heard.events)


def test_each_plan_is_told_of_as_soon_as_it_is_done(tmp_path: Path) -> None:
    quick, slow = toy_plan(Change(recipe="quick")), toy_plan(Change(weights="s", count="s", recipe="slow"), sleep=0.5)
    order: list[int] = []
    run_all([slow, quick], tmp_path, LocalExecutor(tmp_path, ROOMY), Heard(), ended=lambda i, _: order.append(i))
    assert order == [1, 0]
