"""The store and the runner: what reruns and what does not, through crashes, rivals and damage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy import BpudeployError
from bpudeploy.digest import canonical, key_of
from bpudeploy.errors import StageContractError, StoreError, UsageError
from bpudeploy.events import Event, Note, StepWaiting
from bpudeploy.planning.preview import StepState, preview
from bpudeploy.planning.step import PlanBuilder
from bpudeploy.run.runner import run
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.store.gc import collect, usage, verify
from bpudeploy.store.steps import all_records, keep_record
from tests.run.toy import Change, Toy, joined, stage, toy_plan

ALL = ["fetch/weights", "fetch/calibration", "restructure", "quantize", "compile"]
CHANGES = [
    ({}, []),
    ({"count": "32"}, ["fetch/calibration", "quantize", "compile"]),
    ({"weights": "v"}, ["fetch/weights", "restructure", "quantize", "compile"]),
    ({"restructure_version": 2}, ["restructure"]),  # the same bytes: nothing below it runs
    ({"tolerance": "1e-6"}, ["restructure"]),
    ({"tool": "1.1"}, ["compile"]),
    ({"recipe": "another"}, []),  # recipes share steps
]


PLAIN = Change()


def quiet(event: Event) -> None:
    """Nobody listens."""


def ran(root: Path, change: Change = PLAIN, force: Collection[str] = ()) -> list[str]:
    return run(toy_plan(change), root, quiet, force).ran


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_a_change_reruns_what_it_reaches(tmp_path: Path, change: dict[str, object], expected: list[str]) -> None:
    assert ran(tmp_path) == ALL
    assert ran(tmp_path, replace(Change(), **change)) == expected  # type: ignore[arg-type]
    assert ran(tmp_path) == []


def test_a_long_step_says_how_long_it_took_before(tmp_path: Path) -> None:
    def told(change: Change) -> list[str]:
        events: list[Event] = []
        run(toy_plan(change), tmp_path, events.append)
        return [f"{event.step} {event.text}" for event in events if isinstance(event, Note)]

    assert told(PLAIN) == []
    for record in all_records(tmp_path):
        keep_record(tmp_path, replace(record, seconds=497.0 if record.step in ("compile", "restructure") else 59.0))
    assert told(replace(PLAIN, weights="v")) == [
        "restructure took 8 min with these options before",
        "compile took 8 min with these options before",
    ]
    for record in all_records(tmp_path):
        keep_record(tmp_path, replace(record, seconds=497.0))
    assert told(replace(PLAIN, tolerance="1e-6")) == [], "other options"


def test_touching_every_file_reruns_nothing(tmp_path: Path) -> None:
    ran(tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    assert ran(tmp_path) == []


def test_force_reruns_the_named_steps_alone_when_their_bytes_are_the_same(tmp_path: Path) -> None:
    ran(tmp_path)
    assert ran(tmp_path, force=["fetch"]) == ["fetch/weights", "fetch/calibration"]
    with pytest.raises(UsageError) as caught:
        ran(tmp_path, force=["quantise"])
    assert caught.value.hint == "did you mean quantize?"


def test_look_names_the_part_that_changed(tmp_path: Path) -> None:
    ran(tmp_path)
    seen = {o.step: (o.state, o.reason) for o in preview(toy_plan(Change(tool="1.1", count="32")), tmp_path)}
    assert seen["fetch/weights"] == (StepState.HIT, "unchanged")
    assert seen["fetch/calibration"] == (StepState.MISS, "options.text: i64 -> i32")
    assert seen["quantize"] == (StepState.AFTER, "after fetch/calibration")
    assert seen["compile"] == (StepState.AFTER, "after quantize")
    only = {o.step: o.reason for o in preview(toy_plan(Change(tool="1.1")), tmp_path)}
    assert only["compile"] == "tools.compiler: 1.0 -> 1.1"


@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from(["weights", "images", "count", "tolerance", "tool", "recipe"]), st.sampled_from("abc")
        ),
        max_size=8,
    ),
    forced=st.lists(st.sampled_from([*ALL, "fetch"]), max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_run_does_what_look_said(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str]], forced: list[str]
) -> None:
    root, change = tmp_path_factory.mktemp("store"), Change()
    for field, value in [*edits, ("count", "z")]:
        change = replace(change, **{field: value})  # type: ignore[arg-type]
        said = {o.step: o.state for o in preview(toy_plan(change), root, forced)}
        did = run(toy_plan(change), root, quiet, forced).steps
        for step, state in said.items():
            assert state is StepState.AFTER or did[step].hit == (state is StepState.HIT), (step, state)


def test_a_damaged_record_and_a_lost_object_are_misses(tmp_path: Path) -> None:
    ran(tmp_path)
    entry = next(e for e in usage(tmp_path) if e.record.step == "restructure")
    (tmp_path / "steps" / entry.record.key[:2] / f"{entry.record.key[2:]}.json").write_text("{")
    assert ran(tmp_path) == ["restructure"]
    digest = entry.record.outputs[0].digest
    (tmp_path / "objects" / digest[:2] / digest[2:]).unlink()
    assert [o.step for o in preview(toy_plan(), tmp_path) if o.reason.startswith("its objects")] == ["restructure"]
    assert ran(tmp_path) == ["restructure"]


def test_verify_removes_what_is_damaged_and_the_next_run_heals(tmp_path: Path) -> None:
    before = run(toy_plan(), tmp_path, quiet).artifact("compile")
    before.path.chmod(0o644)
    before.path.write_text("x" * before.path.stat().st_size)  # the same size: only hashing can tell
    assert verify(tmp_path) == (5, [before.digest])
    assert ran(tmp_path) == ["compile"]
    assert verify(tmp_path) == (5, [])


def test_gc_keeps_the_young_and_what_they_name(tmp_path: Path) -> None:
    ran(tmp_path)
    assert collect(tmp_path, older_than_days=1, dry_run=False).objects == 0
    planned = collect(tmp_path, older_than_days=0, dry_run=True)
    assert (planned.records, planned.objects) == (5, 5) and ran(tmp_path) == []
    collect(tmp_path, older_than_days=0, dry_run=False)
    assert usage(tmp_path) == [] and ran(tmp_path) == ALL


def test_gc_keeps_what_is_used(tmp_path: Path) -> None:
    ran(tmp_path)
    ran(tmp_path, Change(tool="1.1"))
    for path in tmp_path.glob("steps/*/*.json"):
        os.utime(path, (0, 0))
    assert ran(tmp_path) == []
    assert collect(tmp_path, older_than_days=1, dry_run=False).records == 1, "the other compile"
    assert ran(tmp_path) == []


def test_gc_stays_out_of_a_run(tmp_path: Path) -> None:
    def clean(text: str, inputs: list[str]) -> str:
        with pytest.raises(StoreError, match="a run is using the store"):
            collect(tmp_path, older_than_days=0, dry_run=False)
        return "refused"

    p = PlanBuilder("busy")
    p.add(stage("w", (), Kind.MODEL, clean), "fetch/weights", Toy("x"))
    assert run(p.build(), tmp_path, lambda event: None).artifact("fetch/weights").path.read_text() == "refused"


def test_a_failing_stage_leaves_no_record(tmp_path: Path) -> None:
    def fail(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        (work.dir / "out").write_text("half")
        raise ZeroDivisionError

    p = PlanBuilder("fails")
    p.add(Stage("f", 1, (), {"model": Kind.MODEL}, fail), "fetch/weights", Toy("x"))
    with pytest.raises(ZeroDivisionError):
        run(p.build(), tmp_path, quiet)
    assert usage(tmp_path) == [] and list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("what", ["outside", "absent", "link", "two"])
def test_a_stage_is_held_to_its_contract(tmp_path: Path, what: str) -> None:
    (tmp_path / "theirs").write_text("not yours to move")

    def cheat(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        good, link = work.dir / "good", work.dir / "link"
        good.write_text("good")
        link.symlink_to(good)
        return {"outside": (tmp_path / "theirs",), "absent": (work.dir / "no",), "link": (link,), "two": (good, good)}[
            what
        ]

    p = PlanBuilder("cheats")
    p.add(Stage("c", 1, (), {"model": Kind.MODEL}, cheat), "fetch/weights", Toy("x"))
    with pytest.raises(StageContractError):
        run(p.build(), tmp_path / "store", quiet)
    assert (tmp_path / "theirs").read_text() == "not yours to move"


def test_a_wrong_wire_fails_while_planning() -> None:
    p = PlanBuilder("wrong")
    model = p.add(stage("w", (), Kind.MODEL, joined), "fetch/weights", Toy("x"))["out"]
    with pytest.raises(StageContractError, match="takes"):
        p.add(stage("c", (Kind.QUANTIZED,), Kind.BINARY, joined), "compile", Toy("x"), model)


def start(root: Path, count: int, sleep: float, *force: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.run.toy", str(root), str(count), str(sleep), *force]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_two_runs_at_once_make_each_step_once(tmp_path: Path) -> None:
    both = [start(tmp_path, 64, 0.2) for _ in range(2)]
    made = [step for process in both for step in process.communicate()[0].split()]
    assert sorted(made) == sorted(ALL) and all(p.returncode == 0 for p in both)


def test_two_forced_runs_at_once_share_too(tmp_path: Path) -> None:
    ran(tmp_path)
    both = [start(tmp_path, 64, 0.3, "compile") for _ in range(2)]
    made = [step for process in both for step in process.communicate()[0].split()]
    assert set(made) == {"compile"} and all(p.returncode == 0 for p in both)


def test_a_waiting_run_says_so(tmp_path: Path) -> None:
    rival = start(tmp_path, 64, 0.5)
    while not list(tmp_path.glob("work/*")):
        time.sleep(0.01)
    events: list[Event] = []
    run(toy_plan(), tmp_path, events.append)
    rival.communicate()
    assert any(isinstance(e, StepWaiting) for e in events)


def crash(root: Path, rng: random.Random, kill: signal.Signals, number: int) -> None:
    """Stop a run at a random moment; the next one must need no repair."""
    process = start(root, number, 0.03)
    time.sleep(rng.uniform(0.1, 0.5))
    process.send_signal(kill)
    process.communicate()
    plan = toy_plan(Change(count=str(number)))
    said = {o.step: o.state for o in preview(plan, root)}
    did = run(plan, root, quiet)
    assert all(state is StepState.AFTER or did.steps[s].hit == (state is StepState.HIT) for s, state in said.items())
    assert did.artifact("compile").path.read_text() == f"c(q(graph of w(),i{number}()))"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_run_stopped_anywhere_needs_no_repair(tmp_path: Path, kill: signal.Signals) -> None:
    rng = random.Random(1)
    for number in range(int(os.environ.get("BPUDEPLOY_KILLS", "6"))):
        crash(tmp_path, rng, kill, number)
    assert verify(tmp_path)[1] == []


def test_an_unwritable_store_is_an_error_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(BpudeployError) as caught:
        ran(tmp_path / "store")
    assert caught.value.hint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), json_values), st.randoms())
def test_a_key_does_not_know_the_order_of_a_map(value: dict[str, object], rng: random.Random) -> None:
    shuffled = list(value.items())
    rng.shuffle(shuffled)
    assert key_of("t", value) == key_of("t", dict(shuffled))


@given(json_values, json_values)
def test_a_key_tells_values_apart(one: object, other: object) -> None:
    assert (key_of("t", one) == key_of("t", other)) == (canonical(one) == canonical(other))
    assert key_of("t", one) != key_of("u", one)
