"""The supervisor: ends a hanging, idle or disconnected agent, and refuses invalid commands."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.agent.host import BEFORE, FakeBoard, left, round_of, wait_for


def modules_that(board: FakeBoard, code: str) -> dict[str, str]:
    """Return the environment of a board whose hobot_dnn runs ``code`` on import."""
    package = board.folder / "modules" / "hobot_dnn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    return {"PYTHONPATH": str(package.parent)}


HANGS = "import ctypes\nctypes.PyDLL(None).sleep(1000)\n"  # in C, and never lets another thread of Python run
STARTS = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)', {!r}])\n"


def test_a_worker_that_hangs_in_c_is_killed_with_its_children(board: FakeBoard, model: Path, samples: Path) -> None:
    environment = modules_that(board, STARTS.format(str(board.folder)) + HANGS)
    with board.ready(environment=environment) as agent:
        agent.done("performance")
        began = time.monotonic()
        fields = {"subject": "s", "model": str(model), "sha256": None, "samples": str(samples)}
        agent.send("load", 0.7, runtime="hobot_dnn", threads=0, **fields)
        assert wait_for(lambda: len(left(board.folder)) == 4, 0.6), "supervisor, worker, guard and what it started"
        assert agent.receive(5) == []
        assert agent.process.wait(5) == 1 and 0.6 < time.monotonic() - began < 3
        assert "load: no output for" in agent.stderr()
    assert not left(board.folder) and board.governors() == BEFORE and not list(board.root.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_agent(board: FakeBoard, number: signal.Signals) -> None:
    with board.ready() as agent:
        agent.done("performance")
        agent.process.send_signal(number)
        assert agent.process.wait(5) == 1
        assert number.name in agent.stderr()
    assert not left(board.folder) and board.governors() == BEFORE and not list(board.root.iterdir())


def test_an_idle_agent_exits(board: FakeBoard) -> None:
    with board.ready(idle=0.4) as agent:
        time.sleep(0.2)
        agent.done("conditions")
        began = time.monotonic()
        assert agent.process.wait(5) == 1 and time.monotonic() - began > 0.3
        assert "no command for 0.4 s" in agent.stderr()
    assert not left(board.folder)


def test_a_host_that_does_not_read_cannot_block_it(board: FakeBoard, model: Path, samples: Path) -> None:
    """All pipes are full; the command's time limit still applies."""
    with board.ready() as agent:
        agent.load(model, samples)
        agent.send("round", 2.0, **round_of(min_seconds=60, max_seconds=60))
        agent.send("conditions")
        assert agent.process.wait(10) == 1
        assert "round: no output for" in agent.stderr()
    assert not left(board.folder)


def test_closed_output_ends_the_agent(board: FakeBoard) -> None:
    with board.ready() as agent:
        assert agent.process.stdout is not None
        agent.process.stdout.close()
        assert agent.process.wait(5) == 1
        assert "its output was closed" in agent.stderr()
    assert not left(board.folder)


def test_commands_run_one_after_another(board: FakeBoard) -> None:
    with board.ready() as agent:
        for _ in range(3):
            agent.send("conditions")
        assert [[line["is"] for line in agent.receive()] for _ in range(3)] == [["conditions", "done"]] * 3


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"conditions",
        b"[]",
        b"{}",
        b'{"do":"conditions"}',
        b'{"do":"conditions","within":true}',
        b'{"do":"conditions","within":NaN}',
        b'{"do":"conditions","within":0}',
        b'{"do":["conditions"],"within":5}',
        b'{"do":"conditions","within":5,"x":"' + b"x" * 40000 + b'"}',
        b"[" * 30000,
        b"\xff",
    ],
)
def test_invalid_commands_are_refused(board: FakeBoard, said: bytes) -> None:
    with board.ready() as agent:
        agent.write(said + b"\n")
        (failed,) = agent.receive()
        assert failed["is"] == "failed" and failed["why"].startswith("invalid command: ") and failed["hint"]
        agent.done("conditions")


def test_unknown_commands_and_wrong_fields_are_refused(board: FakeBoard) -> None:
    good = round_of()
    with board.ready() as agent:
        assert "unknown command 'dance'; expected conditions, performance, load" in agent.failure("dance")
        assert "conditions takes nothing; see x" in agent.failure("conditions", x=1)
        assert "see streams" in agent.failure("round", **{k: v for k, v in good.items() if k != "streams"})
        for name, wrong in (
            *(("warmup", -1), ("warmup", 1.5), ("min_frames", "5"), ("streams", 0), ("first", True)),
            *(("max_seconds", None), ("min_seconds", -0.1)),
        ):
            assert f"round: {name} cannot be {wrong!r}" in agent.failure("round", **{**good, name: wrong})
        (failed,) = agent.load(Path("m"), Path("s"), sha256="abc")
        assert "sha256 cannot be 'abc'" in failed["why"]
        agent.done("conditions")


def test_output_of_a_runtime_does_not_mix_with_the_protocol(board: FakeBoard, model: Path, samples: Path) -> None:
    """Vendor libraries print to standard output, from C and Python; some read standard input."""
    says = "import os\nos.write(1, b'[BPU_PLAT]\\n')\nprint('hello', len(os.read(0, 9)), flush=True)\n"
    with board.ready(environment=modules_that(board, says + "raise ImportError('none')\n")) as agent:
        (failed,) = agent.load(model, samples, runtime="hobot_dnn", threads=0)
        assert failed["is"] == "failed"
        agent.bye()
        assert "[BPU_PLAT]\nhello 0\n" in agent.stderr()


def test_a_crashed_worker_is_reported(board: FakeBoard, model: Path, samples: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    with board.ready(environment=modules_that(board, crash)) as agent:
        assert agent.load(model, samples, runtime="hobot_dnn", threads=0) == []
        assert agent.process.wait(5) == 1
        assert "the worker exited unexpectedly (SIGSEGV)" in agent.stderr()
    assert not list(board.root.iterdir())


def test_the_supervisor_loads_no_runtime(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        agent.load(model, samples)
        own, worker = (Path(f"/proc/{pid}/maps").read_text() for pid in (agent.process.pid, agent.worker()))
        assert "onnxruntime" in worker and "onnxruntime" not in own and "numpy" not in own
        assert os.getsid(agent.worker()) == agent.worker(), "a session of its own"
