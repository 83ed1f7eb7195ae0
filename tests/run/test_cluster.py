"""A cluster: what a farm on one machine gives, from workers apart; what dies costs its own step and no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpudeploy import BpudeployError
from bpudeploy.cli.main import main
from bpudeploy.digest import Digest
from bpudeploy.errors import ExitCode, StageError, UsageError
from bpudeploy.events import Event, Note, Progress, StepFinished, StepStarted, StepWaiting
from bpudeploy.planning.step import Plan, PlanBuilder
from bpudeploy.run.executors import open_executor
from bpudeploy.run.parallel import run_all
from bpudeploy.run.runner import RunResult, run
from bpudeploy.stage import Artifact, Fingerprint, Kind, Stage, StepContext
from bpudeploy.store.gc import verify
from tests.run.grid import ROOT, Grid, grid, until
from tests.run.test_parallel import ROOMY, Heard, broken_plan, variants
from tests.run.toy import Change, Toy, toy_plan

PROGRAM = [sys.executable, "-c"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Return a scheduler with two workers that no test harms."""
    with grid(tmp_path_factory.mktemp("grid")) as made:
        yield made


@pytest.fixture
def team(tmp_path: Path) -> str:
    """Return a shared store."""
    (tmp_path / "team").mkdir()
    return str(tmp_path / "team")


def on(
    where: str, plans: list[Plan], root: Path, shared: str | None, heard: Callable[[str, Event], None]
) -> list[RunResult]:
    found = run_all(plans, root, open_executor(where, root, ROOMY, shared), heard)
    for one in found:
        if isinstance(one, BpudeployError):
            raise one
    return [one for one in found if isinstance(one, RunResult)]


def digests(found: list[RunResult]) -> list[dict[str, tuple[Digest, ...]]]:
    return [one.digests for one in found]


def test_workers_apart_give_what_this_machine_gives(two: Grid, team: str, tmp_path: Path) -> None:
    plans, heard = variants(3, sleep=0.8), Heard()
    found = on(two.address, plans, tmp_path / "a", team, heard)
    alone = [run(plan, tmp_path / "b", lambda event: None) for plan in plans]
    assert digests(found) == digests(alone)
    assert heard.ran.count("fetch/weights") == 1 and heard.ran.count("compile") == 3 and heard.most == 2
    for store in two.stores:
        assert list((store / "objects").glob("*")), "both worked"
        assert verify(store)[1] == []
    assert not list((tmp_path / "a" / "work").glob("*")) and verify(tmp_path / "a")[1] == []
    assert found[0].artifact("compile").path.is_relative_to(tmp_path / "a")
    again = on("local", plans, tmp_path / "a", None, heard := Heard())
    assert heard.ran == [] and digests(again) == digests(alone), "a local run goes on from there"
    on("local", plans, tmp_path / "c", team, heard := Heard())
    assert heard.ran == [], "and another machine from the shared store"


def test_what_is_here_and_not_shared_is_given_to_the_workers(two: Grid, team: str, tmp_path: Path) -> None:
    plans = [toy_plan(Change(weights="only here"))]
    run(plans[0].until("restructure"), tmp_path / "a", lambda event: None)
    on(two.address, plans, tmp_path / "a", team, heard := Heard())
    assert heard.ran[-2:] == ["quantize", "compile"] and "restructure" not in heard.ran


def test_our_own_workers_need_no_shared_store(tmp_path: Path) -> None:
    plans, heard = variants(2, sleep=0.3), Heard()
    found = on("dask:2", plans, tmp_path / "a", None, heard)
    assert digests(found) == digests([run(plan, tmp_path / "b", lambda event: None) for plan in plans])
    assert heard.most == 2 and verify(tmp_path / "a")[1] == []


def test_the_real_pipeline_gives_the_same_bytes(
    tiny: Path, two: Grid, team: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both.yaml"
    both.write_text(f"extends: {tiny}\nmatrix: {{quantize.observer: [mse, minmax]}}\n")
    argv = ["run", str(both), "--until", "compile", "--json", "--store"]
    assert main([*argv, str(tmp_path / "a")]) == 0
    here = [json.loads(line)["steps"] for line in capsys.readouterr().out.splitlines()]
    assert main([*argv, str(tmp_path / "b"), "--executor", two.address, "--shared-store", team]) == 0
    there = [json.loads(line)["steps"] for line in capsys.readouterr().out.splitlines()]
    assert len(here) == 2 and all(step["cache"] == "miss" for step in here[0].values())
    for one, other in zip(here, there, strict=True):
        assert {name: list(step["artifacts"]) for name, step in one.items()} == {
            name: list(step["artifacts"]) for name, step in other.items()
        }


def counting(count: Path, end: Callable[[int], None]) -> Plan:
    """Three steps that write down their runs; in the middle one ``end`` is called with the number of its run."""

    def stage(name: str, takes: tuple[Kind, ...], gives: Kind) -> Stage[Toy]:
        def work(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
            with (count / name).open("a") as stream:
                stream.write(f"{os.getpid()} {os.getppid()}\n")
            work.emit(Progress(name, 1, 2, "images"))
            if name == "middle":
                end(len((count / name).read_text().splitlines()))
            (work.dir / "out").write_text(name + "".join(a.path.read_text() for a in inputs))
            return (work.dir / "out",)

        return Stage(name, 1, takes, {"out": gives}, work)

    p = PlanBuilder("counting")
    first = p.add(stage("first", (), Kind.MODEL), "first", Toy(str(count)))["out"]
    second = p.add(stage("middle", (Kind.MODEL,), Kind.GRAPH), "middle", Toy(str(count)), first)["out"]
    p.add(stage("last", (Kind.GRAPH,), Kind.BINARY), "last", Toy(str(count)), second)
    count.mkdir()
    return p.build()


def kill_worker_at_first(run: int) -> None:
    if run == 1:
        time.sleep(0.5)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)


def runs(count: Path) -> Counter[str]:
    return Counter({path.name: len(path.read_text().splitlines()) for path in count.iterdir()})


@pytest.mark.parametrize("own", [True, False], ids=["own", "apart"])
def test_a_worker_that_is_killed_costs_the_step_that_it_had(own: bool, team: str, tmp_path: Path) -> None:
    plan, heard = counting(tmp_path / "count", kill_worker_at_first), Heard()
    if own:
        (found,) = on("dask:2", [plan], tmp_path / "a", None, heard)
    else:
        (tmp_path / "grid").mkdir()
        with grid(tmp_path / "grid") as made:
            (found,) = on(made.address, [plan], tmp_path / "a", team, heard)
    assert runs(tmp_path / "count") == {"first": 1, "middle": 2, "last": 1}
    assert found.artifact("last").path.read_text() == "lastmiddlefirst" and verify(tmp_path / "a")[1] == []
    notes = [event.text for _, event in heard.events if isinstance(event, Note)]
    assert notes == ["its worker was lost: running again on another"]
    assert [e.step for _, e in heard.events if isinstance(e, StepFinished)] == ["first", "middle", "last"]
    assert not left_of(tmp_path)


def left_of(folder: Path) -> list[int]:
    """Return the processes that stages wrote down and that are still there."""
    pids = [int(line.split()[0]) for path in (folder / "count").iterdir() for line in path.read_text().splitlines()]
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def kill_worker(run: int) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def test_a_step_that_takes_every_worker_with_it_fails_at_last(tmp_path: Path) -> None:
    plan = counting(tmp_path / "count", kill_worker)
    with pytest.raises(StageError, match="middle of counting lost its worker more than once") as caught:
        on("dask:2", [plan], tmp_path / "a", None, Heard())
    assert "memory" in str(caught.value.hint)
    assert runs(tmp_path / "count") == {"first": 1, "middle": 3}


@pytest.mark.parametrize(
    ("how", "message", "hint"),
    [
        ("refuses", "these weights are bad", "train them"),
        ("killed", "fetch/weights of broken-1 was killed by signal 9", "memory"),
        ("a bug", "fetch/weights of broken-1 exited with code 1", "memory"),
    ],
)
def test_a_step_that_fails_there_fails_as_here(
    two: Grid, team: str, tmp_path: Path, how: str, message: str, hint: str
) -> None:
    plans = [broken_plan("broken-1", how), *variants(1), broken_plan("broken-2", how)]
    executor = open_executor(two.address, tmp_path / "a", ROOMY, team)
    first, second, third = run_all(plans, tmp_path / "a", executor, Heard())
    assert isinstance(first, StageError) and message in first.message and hint in str(first.hint)
    assert isinstance(second, RunResult) and third is first


def stay(run: int) -> None:
    time.sleep(120)


def test_a_scheduler_that_goes_away_is_said_and_costs_only_what_ran(team: str, tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    plan = counting(tmp_path / "count", stay)
    with grid(tmp_path / "grid") as made:

        def end(recipe: str, event: Event) -> None:
            if isinstance(event, Progress) and event.step == "middle":
                made.processes[0].kill()

        with pytest.raises(StageError, match=r"scheduler at tcp://.* no longer answers") as caught:
            on(made.address, [plan], tmp_path / "a", team, end)
        assert "run again" in str(caught.value.hint)
        assert not left_of(tmp_path), "a worker without a scheduler stops"
    assert verify(tmp_path / "a")[1] == [] and verify(Path(team))[1] == []


PLANNER = """
import sys
from pathlib import Path
from bpudeploy.digest import Digest
from bpudeploy.errors import BpudeployError
from bpudeploy.run.executors import open_executor
from bpudeploy.run.parallel import run_all
from tests.run.test_cluster import counting, stay
from tests.run.test_parallel import ROOMY
if __name__ == "__main__":
    folder, where = Path(sys.argv[1]), sys.argv[2]
    shared = str(folder / "team") if where.startswith("tcp") else None
    executor = open_executor(where, folder / "a", ROOMY, shared)
    run_all([counting(folder / "count", stay)], folder / "a", executor, lambda r, e: print(e, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("own", [True, False], ids=["own", "apart"])
def test_however_the_planner_ends_no_step_runs_on(
    own: bool, how: signal.Signals, two: Grid, team: str, tmp_path: Path
) -> None:
    where = "dask:2" if own else two.address
    (tmp_path / "planner.py").write_text(PLANNER)
    argv = [sys.executable, str(tmp_path / "planner.py"), str(tmp_path), where]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, process_group=0
    ) as planner:
        until(lambda: (tmp_path / "count" / "middle").exists(), "middle step")
        time.sleep(0.3)
        if how is signal.SIGINT:
            os.killpg(planner.pid, how)  # as a terminal does
        else:
            planner.send_signal(how)
        planner.wait(60)
        assert not left_of(tmp_path)
    if own:
        until(lambda: not workers_of(planner.pid), "end of the workers", 30)
    plan = counting(tmp_path / "count-2", lambda run: None)
    assert digests(on(where, [plan], tmp_path / "b", None if own else team, Heard())), "the workers still work"


def workers_of(group: int) -> list[int]:
    """Return the processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_two_planners_that_want_the_same_step_run_it_once(two: Grid, team: str, tmp_path: Path) -> None:
    """They share no folder but the shared store, and one plans for workers, the other for its own machine."""
    import threading

    plan = counting(tmp_path / "count", lambda run: time.sleep(3))
    heard = {where: Heard() for where in (two.address, "local")}
    planners = [
        threading.Thread(target=on, args=(where, [plan], tmp_path / where[:4], team, heard[where])) for where in heard
    ]
    for planner in planners:
        planner.start()
    for planner in planners:
        planner.join(60)
    assert runs(tmp_path / "count") == {"first": 1, "middle": 1, "last": 1}
    assert any(isinstance(event, StepWaiting) for one in heard.values() for _, event in one.events)


def tool_here() -> Fingerprint:
    return {"compiler": os.environ.get("TOY_COMPILER", "1.0")}


def test_a_worker_with_another_tool_refuses_and_says_which(team: str, tmp_path: Path) -> None:
    def work(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        (work.dir / "out").write_text("x")
        return (work.dir / "out",)

    p = PlanBuilder("tooled")
    tooled = Stage("c", 1, (), {"out": Kind.BINARY}, work, fingerprint=tool_here(), look_up=tool_here)
    p.add(tooled, "compile", Toy("x"))
    (tmp_path / "grid").mkdir()
    with grid(tmp_path / "grid", workers=0) as made:
        made.worker({"TOY_COMPILER": "1.1"})
        with pytest.raises(StageError, match=r"compiler 1\.0 there, 1\.1 here") as caught:
            on(made.address, [p.build()], tmp_path / "a", team, Heard())
    assert "same versions" in str(caught.value.hint) and not list(Path(team).iterdir())


def test_a_worker_with_another_bpudeploy_refuses_and_says_so(team: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT / "bpudeploy", tmp_path / "other" / "bpudeploy", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / "bpudeploy" / "__init__.py").open("a") as stream:
        stream.write("\nCHANGED = True\n")
    (tmp_path / "grid").mkdir()
    with grid(tmp_path / "grid", workers=0) as made:
        made.worker(path=tmp_path / "other")
        with pytest.raises(StageError, match=r"other software .* code [0-9a-f]{12} there, [0-9a-f]{12} here"):
            on(made.address, variants(1), tmp_path / "a", team, Heard())


@pytest.mark.parametrize(
    ("where", "message", "hint"),
    [
        ("slurm", "is not an executor", "dask:N"),
        ("dask:0", "is not an executor", "dask:N"),
        ("dask://here", "is not an executor", "HOST:PORT"),
        ("tcp://127.0.0.1:1", "their own stores", "--shared-store"),
    ],
)
def test_what_is_no_executor_is_said(tmp_path: Path, where: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_executor(where, tmp_path, ROOMY)
    assert hint in str(caught.value.hint)


def test_no_scheduler_and_no_worker_are_said(
    tiny: Path, team: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import bpudeploy.run.cluster

    argv = ["run", str(tiny), "--until", "fetch", "--shared-store", team, "--executor"]
    assert main([*argv, "dask://127.0.0.1:1"]) == ExitCode.USER
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err
    assert main([*argv, "tcp://127.0.0.1:1", "--jobs", "2"]) == ExitCode.USER
    assert "--jobs and --memory apply to this machine only" in capsys.readouterr().err
    monkeypatch.setattr(bpudeploy.run.cluster, "_WORKER_TIMEOUT_S", 1)
    (tmp_path / "grid").mkdir()
    with grid(tmp_path / "grid", workers=0) as made:
        assert main([*argv, made.address]) == ExitCode.USER
    assert "has no worker" in capsys.readouterr().err


WITHOUT = """
import sys
for name in ("dask", "distributed", "fsspec", "s3fs"):
    sys.modules[name] = None
from pathlib import Path
from bpudeploy.cli.main import main
sys.exit(main(["run", sys.argv[1], "--until", "fetch", *sys.argv[2:]]))
"""


def test_one_machine_needs_none_of_it_and_is_told_what_more_needs(tiny: Path, team: str) -> None:
    def asked(*more: str) -> tuple[int, str]:
        done = subprocess.run([*PROGRAM, WITHOUT, str(tiny), *more], capture_output=True, text=True, cwd=ROOT)
        return done.returncode, done.stderr

    assert asked()[0] == 0
    for more in (["--executor", "dask:2"], ["--shared-store", team]):
        code, said = asked(*more)
        assert code == ExitCode.USER and "pip install 'bpudeploy[cluster]'" in said, said


def test_a_local_run_imports_none_of_it(tiny: Path) -> None:
    look = (
        "import sys; from bpudeploy.cli.main import main; main(['run', sys.argv[1], '--until', 'fetch']);"
        "print({'dask', 'distributed', 's3fs'} & set(sys.modules))"
    )
    done = subprocess.run([*PROGRAM, look, str(tiny)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr


def test_events_come_while_a_step_runs(two: Grid, team: str, tmp_path: Path) -> None:
    times: list[tuple[float, Event]] = []
    plan = counting(tmp_path / "count", lambda run: time.sleep(1.5))
    on(two.address, [plan], tmp_path / "a", team, lambda _, event: times.append((time.monotonic(), event)))
    progress = next(t for t, e in times if isinstance(e, Progress) and e.step == "middle")
    finished = next(t for t, e in times if isinstance(e, StepFinished) and e.step == "middle")
    assert finished - progress > 1.0
    started = next(t for t, e in times if isinstance(e, StepStarted) and e.step == "middle")
    assert started <= progress
