"""Rollouts as a user runs them: real sshd boards, a real release, faults, a killed controller."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import bpudeploy
from bpudeploy.cli.main import main
from bpudeploy.signing import new_key
from bpudeploy.spec.load import list_targets
from tests.boards.sshd import Home, Server, free_port, keygen, make_home, needs_sshd, public, serve

pytestmark = needs_sshd
Out = pytest.CaptureFixture[str]
COUNT = 4


@dataclass
class Lab:
    """A home that knows its boards, the boards, and what was built."""

    home: Home
    servers: list[Server]
    folder: Path
    stack: ExitStack

    def fleet(self, policy: str = "", *, dead: int | None = None, only: int = COUNT) -> str:
        """Write a fleet file; board 0 is the canary. ``dead``: that board's address leads nowhere."""
        lines = ["boards:"]
        for i, server in enumerate(self.servers[:only]):
            port = free_port() if i == dead else server.port
            group = "canary" if i == 0 else "rest"
            where = f"address: '127.0.0.1:{port}', root: {server.board}/bpudeploy"
            lines.append(f"  b{i}: {{{where}, target: cpu-ssh, groups: [{group}]}}")
        lines.append(f"rollout: {{waves: [{{select: group=canary}}], max_unavailable: 2, {policy}}}")
        path = self.folder / "fleet.yaml"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def mixed(self, targets: Sequence[str]) -> str:
        """Write a fleet file of boards of several kinds, with no canary."""
        lines = ["boards:"]
        for i, target in enumerate(targets):
            server = self.servers[i]
            where = f"address: '127.0.0.1:{server.port}', root: {server.board}/bpudeploy"
            lines.append(f"  b{i}: {{{where}, target: {target}}}")
        path = self.folder / "mixed.yaml"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def serves(self) -> list[str]:
        """Return what each board serves, looked at from outside."""
        links = [server.board / "bpudeploy" / "current" for server in self.servers]
        return [link.readlink().name if link.is_symlink() else "" for link in links]


@pytest.fixture(scope="module")
def built(tiny_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """Return a project in which two releases were built for cpu-ssh, older and newer, with their digests."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    os.environ["BPUDEPLOY_STORE"] = str(folder / "store")
    try:
        digests: list[str] = []
        for observer in ("mse", "minmax"):
            resolved = bpudeploy.load(tiny_files / "tiny.yaml", "target=cpu-ssh", f"quantize.observer={observer}")
            digests.append(bpudeploy.build(resolved, store=folder / "store").digest)
            time.sleep(1.1)  # builds are ordered by the second
        yield folder, digests
    finally:
        os.chdir(before)
        del os.environ["BPUDEPLOY_STORE"]


@pytest.fixture
def lab(built: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    home = make_home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("BPUDEPLOY_STORE", str(built[0] / "store"))
    monkeypatch.chdir(built[0])
    key = tmp_path / "config" / "bpudeploy" / "signing_key"
    new_key(key)
    with ExitStack() as stack:
        python = Path(sys.executable).parent
        servers = [stack.enter_context(serve(tmp_path / f"b{i}", home, path=python)) for i in range(COUNT)]
        home.know(*servers)
        for server in servers:
            server.trust(key)
        yield Lab(home, servers, tmp_path, stack)


def fleet(capsys: Out, *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    got = main(["fleet", *argv])
    said = capsys.readouterr()
    assert got == code, (got, said)
    return said.out


def status(capsys: Out) -> dict[str, object]:
    found: dict[str, object] = json.loads(fleet(capsys, "status", "--json"))
    return found


def test_a_release_reaches_every_board_wave_by_wave(lab: Lab, built: tuple[Path, list[str]], capsys: Out) -> None:
    new = built[1][1]
    plan = fleet(capsys, "plan", "tiny", "--fleet", lab.fleet(), "--json")
    rows = json.loads(plan)["boards"]
    assert [row["wave"] for row in rows] == [1, 2, 2, 2] and all(row["bytes_to_send"] > 0 for row in rows)
    assert lab.serves() == [""] * COUNT, "a plan changes nothing"
    said = fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet())
    assert lab.serves() == [new] * COUNT
    assert "complete" in said and "report.html" in said
    folder = sorted(Path(".bpudeploy/rollouts").iterdir())[-1]
    assert {"journal.jsonl", "report.html", "junit.xml", "summary.json"} <= {p.name for p in folder.iterdir()}
    again = fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(), "--json")
    ended = [json.loads(line) for line in again.splitlines() if '"event":"ended"' in line.replace(" ", "")]
    assert len(ended) == COUNT and not any(one["changed"] or one["bytes_sent"] for one in ended)
    assert "complete" in fleet(capsys, "list")


LEAN = """
import sys
for name in ("numpy", "scipy", "torch", "onnx", "onnxruntime", "safetensors", "sqlalchemy", "matplotlib"):
    sys.modules[name] = None  # as if it were not installed
from bpudeploy.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_machine_with_the_base_package_only_rolls_out(lab: Lab, built: tuple[Path, list[str]]) -> None:
    def lean(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", LEAN, *argv], capture_output=True, text=True, check=False)

    done = lean("fleet", "rollout", "tiny", "--fleet", lab.fleet("gates: {self_check: true}"))
    assert done.returncode == 0, done.stdout
    assert lab.serves() == [built[1][1]] * COUNT
    refused = lean("bench", "tiny@cpu-ssh", "--board", "somewhere")
    assert refused.returncode == 2 and "pip install 'bpudeploy[" in refused.stderr


def test_a_bad_canary_stops_it_and_the_rest_is_not_touched(
    lab: Lab, built: tuple[Path, list[str]], capsys: Out
) -> None:
    """The canary's folder is a file: it cannot take the release."""
    canary = lab.servers[0].board / "bpudeploy"
    canary.rename(canary.with_name("away"))
    canary.write_text("not a folder")
    fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(), code=4)
    assert lab.serves() == [""] * COUNT
    said = fleet(capsys, "status")
    assert "b0" in said and "failed" in said


def test_a_failed_gate_rolls_back_all_boards(lab: Lab, built: tuple[Path, list[str]], capsys: Out) -> None:
    """The older release is everywhere; the newer one cannot be checked on the last board."""
    old = built[1][0]
    policy = "gates: {self_check: true}, on_failure: rollback_all"
    newer = sorted(Path(".bpudeploy/runs").iterdir())[1]
    hidden = newer.rename(Path(".bpudeploy/hidden"))
    try:
        fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(policy))
    finally:
        hidden.rename(newer)
    assert lab.serves() == [old] * COUNT
    blobs = lab.servers[-1].board / "bpudeploy" / "blobs"
    shutil.rmtree(blobs)
    blobs.write_text("in the way of the golden images")
    fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(policy), code=4)
    assert lab.serves() == [old] * COUNT
    assert status(capsys)["result"] == "failed"


def test_unreachable_is_neither_failed_nor_done_and_reconcile_continues(
    lab: Lab, built: tuple[Path, list[str]], capsys: Out
) -> None:
    new = built[1][1]
    path = lab.fleet("attempts: 1", dead=2)
    fleet(capsys, "rollout", "tiny", "--fleet", path, code=5)
    assert lab.serves() == [new, new, "", new]
    said = fleet(capsys, "status")
    assert "unreachable" in said and "incomplete" in said
    journal = max(Path(".bpudeploy/rollouts").glob("*/journal.jsonl"))
    port = json.loads(journal.read_text().splitlines()[0])["places"][2]["address"].rpartition(":")[2]
    options = (f"ListenAddress 127.0.0.1:{port}",)  # the board that was off comes back, at the address that it had
    with serve(lab.folder / "b2-again", lab.home, *options, path=Path(sys.executable).parent) as back:
        known = lab.home.ssh / "known_hosts"
        known.write_text(known.read_text() + f"[127.0.0.1]:{port} {public(back.host_key)}\n")
        fleet(capsys, "reconcile")
        assert lab.serves() == [new] * COUNT
    assert "reached every board" in fleet(capsys, "reconcile")


def test_a_wrong_host_key_is_refused_and_counts(lab: Lab, built: tuple[Path, list[str]], capsys: Out) -> None:
    other = keygen(lab.folder / "other")
    known = lab.home.ssh / "known_hosts"
    right = known.read_text()
    known.write_text(right.replace(public(lab.servers[0].host_key), public(other)))
    fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(), code=4)
    assert lab.serves() == [""] * COUNT and "host key" in fleet(capsys, "status")


def test_a_reserved_board_is_skipped_and_reported(lab: Lab, built: tuple[Path, list[str]], capsys: Out) -> None:
    new = built[1][1]
    until = int(time.time()) + 3600
    (lab.servers[1].board / "bpudeploy" / "reservation").symlink_to(f"token {until} somebody@else an experiment")
    fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(), code=5)
    assert lab.serves() == [new, "", new, new]
    assert "reserved" in fleet(capsys, "status") and "an experiment" in fleet(capsys, "status")


@pytest.mark.parametrize("after", [0.2, 0.8, 1.6])
def test_resume_continues_after_a_killed_controller(
    lab: Lab, built: tuple[Path, list[str]], capsys: Out, after: float
) -> None:
    new = built[1][1]
    argv = [sys.executable, "-m", "bpudeploy", "fleet", "rollout", "tiny", "--fleet", lab.fleet("board_seconds: 60")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    rollouts = Path(".bpudeploy/rollouts")
    known = set(rollouts.glob("*/journal.jsonl"))
    while not (set(rollouts.glob("*/journal.jsonl")) - known) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said = fleet(capsys, "status")
    assert "`bpudeploy fleet resume` continues it" in said or "complete" in said
    fleet(capsys, "resume")
    assert lab.serves() == [new] * COUNT
    (journal,) = set(rollouts.glob("*/journal.jsonl")) - known
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    changed = [one["board"] for one in events if one["event"] == "ended" and one["changed"]]
    assert len(changed) == len(set(changed)), "no board is activated twice"


def test_from_another_terminal(lab: Lab, built: tuple[Path, list[str]], capsys: Out) -> None:
    """It waits for an approval; another process looks, pauses, approves and resumes."""
    new = built[1][1]
    path = lab.fleet("gates: {self_check: false}").replace("fleet.yaml", "approve.yaml")
    text = (lab.folder / "fleet.yaml").read_text()
    Path(path).write_text(
        text.replace("{select: group=canary}", "{select: group=canary}, {select: group=rest, approve: true}")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bpudeploy", "fleet", "rollout", "tiny", "--fleet", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while lab.serves()[0] != new and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    assert lab.serves() == [new, "", "", ""] and process.poll() is None
    assert "approv" in fleet(capsys, "status")
    assert "sent to" in fleet(capsys, "pause") and "sent to" in fleet(capsys, "approve", "--wave", "2")
    time.sleep(1.5)
    assert lab.serves() == [new, "", "", ""], "paused"
    fleet(capsys, "resume")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert lab.serves() == [new] * COUNT


def test_each_kind_of_board_gets_its_own_artifact_of_one_recipe(
    lab: Lab, built: tuple[Path, list[str]], tiny_files: Path, capsys: Out
) -> None:
    """Two targets from one recipe's file, built on the way; a third, which nothing here compiles for, by name."""
    shipped = list_targets(Path())["cpu-ssh"].read_text()
    recipe = lab.folder / "mixed-recipe.yaml"  # a recipe's own targets lie beside it, as an inventory's do
    recipe.write_text(f"extends: {tiny_files / 'tiny.yaml'}\nname: mixed\n")
    for folder in (Path("targets"), lab.folder / "targets"):
        folder.mkdir(exist_ok=True)
        (folder / "cpu-two.yaml").write_text(shipped.replace("name: cpu-ssh", "name: cpu-two"))
    fleet(capsys, "rollout", str(recipe), "--fleet", lab.mixed(["cpu-ssh", "cpu-two"]))
    one, two, *_ = lab.serves()
    assert one and two and one != two
    manifests = [json.loads((s.board / "bpudeploy" / "current" / "manifest.json").read_text()) for s in lab.servers[:2]]
    assert [m["target"] for m in manifests] == ["cpu-ssh", "cpu-two"]
    path = lab.mixed(["cpu-ssh", "cpu-two", "rdk-x5"])
    rows = json.loads(fleet(capsys, "plan", "mixed", "--fleet", path, "--json"))["boards"]
    assert [row["wave"] for row in rows] == [1, 1, None] and "no release for target rdk-x5" in rows[2]["note"]
    assert [row["bytes_to_send"] for row in rows[:2]] == [0, 0]


def test_gates_compare_with_the_board_s_previous_release(lab: Lab, built: tuple[Path, list[str]], capsys: Out) -> None:
    new = built[1][1]
    newer = sorted(Path(".bpudeploy/runs").iterdir())[1]
    hidden = newer.rename(Path(".bpudeploy/hidden"))
    try:
        fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet("gates: {self_check: false}", only=1))
    finally:
        hidden.rename(newer)
    gates = "gates: {max_drop: 100, max_p99_slower: 100000, max_temperature: 119}"
    said = fleet(capsys, "rollout", "tiny", "--fleet", lab.fleet(gates, only=1), "--json")
    reached = [json.loads(line) for line in said.splitlines() if '"reached"' in line]
    (measured,) = [one["detail"] for one in reached if one["step"] == "measured"]
    assert re.match(r"top-1 [+-]\d+\.\d points; p99", measured) and "against the previous release" in measured
    assert lab.serves()[0] == new
