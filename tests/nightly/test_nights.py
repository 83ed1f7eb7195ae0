"""Nights as a user runs them: real sshd boards and a real release, a regression, faults, and whatever ends a night."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bpudeploy.boards.address import Address
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.cli.main import main
from bpudeploy.effects.reserve import reservation, reserve
from bpudeploy.results.store import Query, open_results
from tests.boards.sshd import Home, Server, free_port, make_home, needs_sshd, serve
from tests.nightly.test_commits import needs_git, run_git

pytestmark = needs_sshd
Out = pytest.CaptureFixture[str]
FAST = (
    "benchmark: {warmup: 1, rounds: 8, min_frames: 64, min_seconds: 0, max_seconds: 3, precision: 100, streams: []}\n"
)


@dataclass
class Lab:
    """A project with a recipe and a suite, and two boards behind real sshd."""

    folder: Path
    home: Home
    servers: list[Server]

    def fleet(self, *, dead: int | None = None) -> None:
        """Write the fleet's file. ``dead``: that board's address leads nowhere."""
        lines = ["boards:"]
        for i, server in enumerate(self.servers):
            port = free_port() if i == dead else server.port
            where = f"address: '127.0.0.1:{port}', root: {server.board}/bpudeploy"
            lines.append(f"  b{i}: {{{where}, target: cpu-ssh}}")
        (self.folder / "fleet.yaml").write_text("\n".join(lines) + "\n")

    def recipe(self, *lines: str, name: str = "tiny") -> None:
        """Write a recipe that extends the tiny one."""
        text = "\n".join([f"extends: {self.tiny}", f"name: {name}", "target: cpu-ssh", FAST, *lines])
        (self.folder / f"{name}.yaml").write_text(text + "\n")

    def suite(self, *lines: str, jobs: str = "[{recipe: tiny.yaml}]") -> None:
        """Write the suite; what boards or their memory do is not what these tests are about."""
        checks = "checks: {top1: 0.5, p50: 25, p99: null, memory: null, compile_time: null}"
        text = "\n".join(["name: lab", "fleet: fleet.yaml", checks, f"jobs: {jobs}", *lines])
        (self.folder / "suite.yaml").write_text(text + "\n")

    def board(self, number: int) -> AbstractContextManager[SshBoard]:
        server = self.servers[number]
        root = PurePosixPath(str(server.board / "bpudeploy"))
        return open_ssh(Address.parse(f"127.0.0.1:{server.port}"), name="b", python=sys.executable, root=root)

    def nothing_is_held(self) -> None:
        """See that every board was given back, and that no agent is left on it."""
        for number, server in enumerate(self.servers):
            with self.board(number) as board:
                assert reservation(board) is None
            assert not list((server.board / "bpudeploy").glob("agent-*"))

    tiny: Path = Path()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all these nights build once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def lab(tiny_files: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    folder = tmp_path / "project"
    folder.mkdir()
    home = make_home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(store))
    monkeypatch.chdir(folder)
    with ExitStack() as stack:
        python = Path(sys.executable).parent
        servers = [stack.enter_context(serve(tmp_path / f"b{i}", home, path=python)) for i in range(2)]
        home.know(*servers)
        made = Lab(folder, home, servers)
        made.tiny = tiny_files / "tiny.yaml"
        made.fleet()
        made.recipe()
        made.suite()
        yield made


def nightly(capsys: Out, *more: str, code: int = 0) -> dict[str, Any]:
    """Run a night and return its record."""
    assert main(["nightly", "suite.yaml", "--json", *more]) == code, capsys.readouterr()
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def findings(night: dict[str, Any], against: str) -> dict[str, str]:
    (job,) = night["jobs"]
    return {f["metric"]: f["outcome"] for f in job["findings"] if f["against"] == against}


def test_a_night_measures_on_a_board_of_the_pool_and_leaves_it_as_it_was(lab: Lab, capsys: Out) -> None:
    night = nightly(capsys)
    (job,) = night["jobs"]
    assert (job["job"], job["state"], job["board"] in ("b0", "b1")) == ("tiny@cpu-ssh", "measured", True)
    assert job["p50_ms"]["value"] > 0 and job["faults"] == [] and job["provenance"] == "measured"
    assert set(findings(night, "history").values()) == {"cannot tell"}, "one night is no history"
    folder = Path(night["directory"])
    assert {p.name for p in folder.iterdir()} == {
        "night.json",
        "report.html",
        "junit.xml",
        "summary.md",
        "metrics.prom",
    }
    assert (folder.parent / "latest").resolve() == folder.resolve() and (folder.parent / "index.html").is_file()
    with open_results() as results:
        (m,) = results.find(Query(recipe="tiny", target="cpu-ssh"))
    assert m.night == f"lab/{folder.name}" and m.session == job["session"]
    assert m.build is not None and m.build.binary_bytes > 0 and "quantize" in m.build.steps
    lab.nothing_is_held()
    assert not list((lab.servers[0].board / "bpudeploy").glob("current")), "nothing was activated"


def test_a_dry_run_says_the_order_and_touches_nothing(lab: Lab, capsys: Out) -> None:
    lab.suite("budget_minutes: 1", jobs="[{recipe: tiny.yaml, value: 2}, {recipe: tiny.yaml, targets: [local]}]")
    before = sorted(lab.folder.rglob("*"))
    plan = nightly(capsys, "--dry-run")
    assert [(one["job"], one["board"]) for one in plan["jobs"]] == [
        ("tiny@cpu-ssh", None),
        ("tiny@local", None),
    ], "63 s at most do not fit into a minute"
    assert main(["nightly", "suite.yaml", "--dry-run"]) == 0
    assert "left out: no time" in capsys.readouterr().out
    assert sorted(lab.folder.rglob("*")) == before


@needs_git
def test_a_slower_and_bigger_release_is_a_regression_with_what_changed_and_a_command(lab: Lab, capsys: Out) -> None:
    run_git(lab.folder, "init", "-q")
    (lab.folder / ".gitignore").write_text(".bpudeploy\n")
    lab.recipe("restructure: {approximate: {drop_blocks: [1, 2, 3, 4]}}")
    run_git(lab.folder, "add", ".")
    run_git(lab.folder, "commit", "-qm", "a short network")
    good = nightly(capsys)
    assert main(["baseline", "update", "suite.yaml"]) == 2 and "--why" in capsys.readouterr().err
    assert main(["baseline", "update", "suite.yaml", "--why", "the first", "--dry-run"]) == 0
    assert not (lab.folder / "baselines").exists()
    assert main(["baseline", "update", "suite.yaml", "--why", "the first"]) == 0
    capsys.readouterr()
    assert main(["baseline", "show", "suite.yaml", "--json"]) == 0
    (pinned,) = json.loads(capsys.readouterr().out)
    assert pinned["release"] == good["jobs"][0]["release"] and pinned["why"] == "the first"
    lab.recipe()
    run_git(lab.folder, "add", ".")
    run_git(lab.folder, "commit", "-qm", "all blocks")
    night = nightly(capsys, code=4)
    (job,) = night["jobs"]
    told = {f["metric"]: f for f in job["findings"] if f["outcome"] == "regression"}
    assert set(told) == {"p50", "size"} and job["baseline"] == pinned["release"]
    assert "interleaved" in told["p50"]["how"] and "confirmed" in told["p50"]["because"][-1]
    assert told["p50"]["change"]["low"] > 0 and told["p50"]["since"] > good["began"] == told["p50"]["last_good"]
    assert "approximate/drop-blocks: no longer a step" in told["size"]["changed"]
    assert any(line.startswith("recipe commit: ") for line in told["size"]["changed"])
    bench, bisect = told["size"]["reproduce"]
    assert bench.startswith(f"bpudeploy bench {job['release'][:12]} --against {pinned['release'][:12]} --board ")
    assert bisect.startswith("bpudeploy bisect tiny.yaml --good ")
    lab.nothing_is_held()
    again = nightly(capsys, code=4)
    since = {f["since"] for f in again["jobs"][0]["findings"] if f["metric"] == "size" and f["since"]}
    assert since == {told["size"]["since"]}, "the first bad night stays the first"
    assert main(["report", again["directory"]]) == 4, "a night is drawn again, with its verdict"
    assert "REGRESSION size of the binary against its baseline" in capsys.readouterr().out


def test_accepted_by_a_pin_it_is_no_regression_any_more(lab: Lab, capsys: Out) -> None:
    nightly(capsys)
    main(["baseline", "update", "suite.yaml", "--why", "first"])
    capsys.readouterr()
    lab.recipe("quantize: {observer: minmax}")
    changed = nightly(capsys)
    assert main(["baseline", "update", "suite.yaml", "--why", "min-max is what the board likes"]) == 0
    capsys.readouterr()
    accepted = nightly(capsys)
    assert accepted["jobs"][0]["baseline"] == changed["jobs"][0]["release"]
    assert findings(accepted, "baseline")["size"] == findings(accepted, "baseline")["top1"] == "same"


def test_a_dead_board_is_a_fault_and_the_other_does_its_work(lab: Lab, capsys: Out) -> None:
    lab.fleet(dead=0)
    lab.suite("quarantine: {faults: 2, nights: 5}", jobs="[{recipe: tiny.yaml, pool: name=b0}, {recipe: other.yaml}]")
    lab.recipe(name="other")
    night = nightly(capsys, code=5)
    dead, other = night["jobs"]
    assert (dead["state"], other["state"]) == ("no board", "measured") and other["board"] == "b1"
    assert {fault["board"] for fault in dead["faults"]} == {"b0"} and "b0" in dead["why"]
    after = nightly(capsys, code=5)
    assert "2 board faults in the last 1 nights" in after["quarantine"]["b0"]
    assert "2 board faults" in after["jobs"][0]["why"] and after["jobs"][0]["faults"] == []


def test_a_board_that_somebody_reserved_is_left_alone(lab: Lab, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.suite("wait_minutes: 0", jobs="[{recipe: tiny.yaml, pool: name=b0}]")
    with lab.board(0) as board:
        reserve(board, seconds=600, why="debugging", wait_s=0, emit=lambda event: None)
    night = nightly(capsys, code=5)
    assert "has reserved it" in night["jobs"][0]["why"] and "debugging" in night["jobs"][0]["why"]
    assert night["jobs"][0]["faults"] == [], "that is no fault of the board"
    with lab.board(0) as board:
        held = reservation(board)
    assert held is not None and held.why == "debugging", "by hand it was reserved, and it stays so"


def test_a_build_that_fails_is_told_and_stops_no_other(lab: Lab, capsys: Out) -> None:
    lab.recipe("model: {head: {source: broken.safetensors}}", name="broken")
    (lab.folder / "broken.safetensors").write_bytes(b"no tensors")
    lab.suite(jobs="[{recipe: broken.yaml, value: 9}, {recipe: tiny.yaml}]")
    night = nightly(capsys, code=3)
    assert [job["state"] for job in night["jobs"]] == ["build failed", "measured"]
    assert "cannot read the checkpoint" in night["jobs"][0]["why"]


def test_what_the_night_has_no_time_for_is_left_out(lab: Lab, capsys: Out) -> None:
    lab.suite("budget_minutes: 0.000000001", jobs="[{recipe: tiny.yaml}]")
    night = nightly(capsys)
    (job,) = night["jobs"]
    assert job["state"] == "left out" and job["why"]


def test_what_is_built_already_and_could_not_be_compiled_again_in_time_is_left_out(lab: Lab, capsys: Out) -> None:
    nightly(capsys)
    lab.suite("budget_minutes: 0.000000001", jobs="[{recipe: tiny.yaml, recompile: true}]")
    (job,) = nightly(capsys)["jobs"]
    assert job["state"] == "left out" and "compiled again" in job["why"]


def test_only_the_named_jobs_run_and_an_unknown_one_is_refused(lab: Lab, capsys: Out) -> None:
    lab.suite(jobs="[{recipe: tiny.yaml}, {recipe: tiny.yaml, targets: [local]}]")
    assert [job["job"] for job in nightly(capsys, "--only", "tiny@local")["jobs"]] == ["tiny@local"]
    assert main(["nightly", "suite.yaml", "--only", "tiny@locl"]) == 2
    assert "did you mean tiny@local?" in capsys.readouterr().err


def test_a_recompiled_job_has_a_compile_time_of_its_own_each_night(lab: Lab, capsys: Out) -> None:
    lab.suite(jobs="[{recipe: tiny.yaml, recompile: true}]")
    for _ in range(2):
        nightly(capsys)
        time.sleep(1.1)  # when it was compiled is told in seconds
    with open_results() as results:
        made = [m.build.compiled for m in results.find(Query(recipe="tiny")) if m.build is not None]
    assert len(set(made)) == 2


def begin(lab: Lab) -> subprocess.Popen[str]:
    """Begin a night in a process of its own, and return when it measures."""
    lab.suite(jobs="[{recipe: tiny.yaml, pool: name=b0}]")
    long = FAST.replace("max_seconds: 3", "max_seconds: 300").replace("rounds: 8", "rounds: 400")
    (lab.folder / "tiny.yaml").write_text((lab.folder / "tiny.yaml").read_text().replace(FAST, long))
    process = subprocess.Popen(
        [sys.executable, "-c", "from bpudeploy.cli.main import entry; entry()", "nightly", "suite.yaml"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "on b0" in line:
            break
    deadline = time.monotonic() + 60
    while not list((lab.servers[0].board / "bpudeploy").glob("agent-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(1.0)
    return process


def test_ctrl_c_gives_the_board_back_and_says_how_far_it_came(lab: Lab, capsys: Out) -> None:
    process = begin(lab)
    with lab.board(0) as board:
        held = reservation(board)
        assert held is not None and held.owner.endswith("+lab") and held.why == "lab measures tiny"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    lab.nothing_is_held()
    record = json.loads((lab.folder / ".bpudeploy/nights/latest/night.json").read_text())
    assert record["ended"] is None and record["jobs"][0]["state"] == "running"
    lab.recipe()
    assert nightly(capsys)["jobs"][0]["state"] == "measured"


def test_killed_the_next_night_goes_on_with_what_it_held(lab: Lab, capsys: Out) -> None:
    process = begin(lab)
    assert main(["nightly", "suite.yaml"]) == 2, "one night of a suite at a time"
    assert "a night of lab is already running here" in capsys.readouterr().err
    process.kill()
    process.wait(30)
    with lab.board(0) as board:
        assert reservation(board) is not None, "nobody was there to give it back"
    lab.recipe()
    night = nightly(capsys)
    assert night["jobs"][0]["state"] == "measured" and night["jobs"][0]["board"] == "b0"
    lab.nothing_is_held()
