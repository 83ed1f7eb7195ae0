"""After killing any of the agent's processes at any time, none is left and the governors are restored."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.agent.host import BEFORE, FAST, Agent, FakeBoard, argv_of, kill, left, round_of, wait_for
from tests.fakes.board.fixtures import Board

KILLS = int(os.environ.get("BPUDEPLOY_KILLS", "30"))
WAYS = ("supervisor", "worker", "guard", "stdin")


def everything_is_restored(board: FakeBoard) -> bool:
    return bool(wait_for(lambda: not left(board.folder) and board.governors() == BEFORE))


def ask_for_all(agent: Agent, model: Path, samples: Path) -> None:
    """Send commands for about two seconds of work without waiting."""
    agent.send("performance")
    load: dict[str, Any] = {"subject": "s", "sha256": None, "runtime": "onnxruntime", "threads": 1}
    agent.send("load", model=str(model), samples=str(samples), **load)
    long: dict[str, Any] = {"min_seconds": 0.4, "max_seconds": 1.0}
    agent.send("round", **round_of(**long))
    agent.send("round", **round_of(**long, streams=2))
    for _ in range(20):
        agent.send("classify", first=0, last=50, top=5, logits=False)
    agent.send("layers", frames=50)
    agent.send("load", model=str(model), samples=str(samples), **load)
    agent.send("round", **round_of(**long))


def end(agent: Agent, way: str) -> None:
    if way == "supervisor":
        kill(agent.process.pid)
    elif way == "worker":
        kill(agent.worker())
    elif way == "guard":
        kill(agent.guard())
    if way in ("guard", "stdin"):  # an agent without its guard works on: this is about how it ends then
        agent.close_input()


def test_killed_at_any_time_it_leaves_no_process_and_no_governor(board: FakeBoard, model: Path, samples: Path) -> None:
    """KILLS times, within the first 1.5 s, cycling through the ways."""
    moments = random.Random(8)
    for number, way in zip(range(KILLS), itertools.cycle(WAYS), strict=False):
        moment = moments.uniform(0, 1.5)
        with board.start() as agent:
            ask_for_all(agent, model, samples)
            time.sleep(moment)
            end(agent, way)
            assert everything_is_restored(board), f"{number}: {way} killed after {moment:.3f} s: {left(board.folder)}"
        if way != "supervisor":  # what that one leaves, the next agent sweeps when it says hello
            assert not (board.root / f"agent-{agent.process.pid}.tmp").exists() and not board.record.exists()


def started(board: FakeBoard) -> Agent:
    agent = board.ready()
    agent.done("performance")
    assert board.governors() == FAST
    return agent


def test_the_supervisor_restores_the_governors_if_worker_and_guard_are_killed(board: FakeBoard) -> None:
    with started(board) as agent:
        guard, worker = agent.guard(), agent.worker()
        kill(guard)
        kill(worker)
        assert everything_is_restored(board)
        assert agent.process.wait() == 1 and "exited unexpectedly (SIGKILL" in agent.stderr()
    assert not list(board.root.iterdir())


def kill_all(agent: Agent) -> None:
    for pid in (agent.guard(), agent.process.pid, agent.worker()):
        kill(pid)
    assert wait_for(lambda: not left(agent.board.folder))


def test_the_next_agent_restores_the_governors_if_all_processes_are_killed(board: FakeBoard) -> None:
    with started(board) as agent:
        kill_all(agent)
    assert board.governors() == FAST and board.record.exists()
    with board.start() as agent:
        (hello,) = agent.receive()
        assert sorted(hello["healed"]) == sorted(str(board.file(path)) for path in BEFORE)
        assert board.governors() == BEFORE
        assert [path.name for path in board.root.iterdir()] == [f"agent-{agent.process.pid}.tmp"]


def test_a_record_of_another_boot_is_only_removed(board: FakeBoard) -> None:
    with started(board) as agent:
        kill_all(agent)
    board.write("/proc/sys/kernel/random/boot_id", "the-next-boot")
    with board.start() as agent:
        (hello,) = agent.receive()
        assert hello["healed"] == [] and hello["boot"] == "the-next-boot"
    assert board.governors() == FAST and not board.record.exists()


@pytest.mark.parametrize(
    "said", ["", '{"boot": "this-boot", "bef', "[]", '{"boot": "this-boot", "before": {"%s": "x"}}']
)
def test_an_incomplete_record_and_one_with_other_files_are_ignored(board: FakeBoard, said: str) -> None:
    """An incomplete record means that nothing was changed; other paths must not be written."""
    other = board.write("/etc/other", "as it was")
    board.record.write_text(said.replace("%s", str(other)))
    with board.start() as agent:
        (hello,) = agent.receive()
        assert hello["healed"] == [] and not board.record.exists()
    assert other.read_text() == "as it was\n" and board.governors() == BEFORE


def test_an_agent_whose_guard_was_killed_restores_the_governors_itself(board: FakeBoard) -> None:
    with started(board) as agent:
        kill(agent.guard())
        agent.done("conditions")
        agent.bye()
    assert board.governors() == BEFORE and not list(board.root.iterdir())


def test_two_agents_do_not_overwrite_each_others_governors(board: FakeBoard) -> None:
    with started(board) as first, board.start() as second:
        (hello,) = second.receive()
        assert hello["healed"] == []
        governors, _ = second.ask("performance")
        # It finds them as it would set them, but by an agent whose end changes them under it.
        assert "another agent" in governors["refused"]
        second.bye()
        assert board.governors() == FAST
        first.bye()
    assert board.governors() == BEFORE


@pytest.mark.parametrize("way", [way for way in WAYS if way != "guard"])
def test_a_hanging_vendor_tool_ends_with_the_agent(
    board: FakeBoard, samples: Path, tool: tuple[Board, Path], way: str
) -> None:
    x5, network = tool
    with board.ready(environment=x5.env()) as agent:
        agent.done("performance")
        assert agent.load(network, samples, runtime="hobot_dnn", threads=0)[-1] == {"is": "done"}
        x5.set(fail="hang")
        agent.send("round", **round_of(warmup=0))
        assert wait_for(lambda: any(b"perf" in argv_of(pid) for pid in left(board.folder)))
        end(agent, way)
        assert everything_is_restored(board), left(board.folder)
