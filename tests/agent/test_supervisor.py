"""The supervisor: ends what hangs, what is idle and what is left alone; refuses what is no command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.agent.host import BEFORE, FakeBoard, left, round_of, wait_for


def modules_that(board: FakeBoard, does: str) -> dict[str, str]:
    """Return the environment of a board whose hobot_dnn, when it is loaded, does that."""
    package = board.folder / "modules" / "hobot_dnn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(does)
    return {"PYTHONPATH": str(package.parent)}


HANGS = "import ctypes\nctypes.PyDLL(None).sleep(1000)\n"  # in C, and never lets another thread of Python run
STARTS = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)', {!r}])\n"


def test_a_worker_that_hangs_in_c_is_killed_in_time_with_all_it_started(
    board: FakeBoard, model: Path, samples: Path
) -> None:
    environment = modules_that(board, STARTS.format(str(board.folder)) + HANGS)
    with board.start(environment=environment) as agent:
        agent.hear()
        agent.done("performance")
        began = time.monotonic()
        fields = {"subject": "s", "model": str(model), "sha256": None, "samples": str(samples)}
        agent.tell("load", 0.7, runtime="hobot_dnn", threads=0, **fields)
        assert wait_for(lambda: len(left(board.folder)) == 4, 0.6), "supervisor, worker, guard and what it started"
        assert agent.hear(5) == []
        assert agent.process.wait(5) == 1 and 0.6 < time.monotonic() - began < 3
        assert "load: not a word in" in agent.stderr()
    assert not left(board.folder) and board.governors() == BEFORE and not list(board.root.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_all(board: FakeBoard, number: signal.Signals) -> None:
    with board.start() as agent:
        agent.hear()
        agent.done("performance")
        agent.process.send_signal(number)
        assert agent.process.wait(5) == 1
        assert number.name in agent.stderr()
    assert not left(board.folder) and board.governors() == BEFORE and not list(board.root.iterdir())


def test_it_does_not_wait_for_ever_for_a_command(board: FakeBoard) -> None:
    with board.start(idle=0.4) as agent:
        agent.hear()
        time.sleep(0.2)
        agent.done("conditions")
        began = time.monotonic()
        assert agent.process.wait(5) == 1 and time.monotonic() - began > 0.3
        assert "nothing was asked for 0.4 s" in agent.stderr()
    assert not left(board.folder)


def test_a_host_that_reads_nothing_does_not_hold_it(board: FakeBoard, model: Path, samples: Path) -> None:
    """All pipes are full; the command's time still ends it."""
    with board.start() as agent:
        agent.hear()
        agent.load(model, samples)
        agent.tell("round", 2.0, **round_of(min_seconds=60, max_seconds=60))
        agent.tell("conditions")
        assert agent.process.wait(10) == 1
        assert "round: not a word in" in agent.stderr()
    assert not left(board.folder)


def test_a_closed_output_ends_it(board: FakeBoard) -> None:
    with board.start() as agent:
        agent.hear()
        assert agent.process.stdout is not None
        agent.process.stdout.close()
        assert agent.process.wait(5) == 1
        assert "its output was closed" in agent.stderr()
    assert not left(board.folder)


def test_commands_are_done_one_after_another(board: FakeBoard) -> None:
    with board.start() as agent:
        agent.hear()
        for _ in range(3):
            agent.tell("conditions")
        assert [[line["is"] for line in agent.hear()] for _ in range(3)] == [["conditions", "done"]] * 3


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
def test_what_is_no_command_is_refused(board: FakeBoard, said: bytes) -> None:
    with board.start() as agent:
        agent.hear()
        agent.write(said + b"\n")
        (failed,) = agent.hear()
        assert failed["is"] == "failed" and failed["why"].startswith("this is no command: ") and failed["hint"]
        agent.done("conditions")


def test_unknown_verbs_and_wrong_fields_are_refused(board: FakeBoard) -> None:
    good = round_of()
    with board.start() as agent:
        agent.hear()
        assert "no verb 'dance'; there are conditions, performance, load" in agent.why("dance")
        assert "conditions takes nothing; see x" in agent.why("conditions", x=1)
        assert "see streams" in agent.why("round", **{k: v for k, v in good.items() if k != "streams"})
        for name, wrong in (
            *(("warmup", -1), ("warmup", 1.5), ("min_frames", "5"), ("streams", 0), ("first", True)),
            *(("max_seconds", None), ("min_seconds", -0.1)),
        ):
            assert f"round: {name} cannot be {wrong!r}" in agent.why("round", **{**good, name: wrong})
        (failed,) = agent.load(Path("m"), Path("s"), sha256="abc")
        assert "sha256 cannot be 'abc'" in failed["why"]
        agent.done("conditions")


def test_what_a_runtime_prints_is_no_line_of_ours(board: FakeBoard, model: Path, samples: Path) -> None:
    """Vendors' libraries print to standard output, from C and from Python; some read standard input."""
    says = "import os\nos.write(1, b'[BPU_PLAT]\\n')\nprint('hello', len(os.read(0, 9)), flush=True)\n"
    with board.start(environment=modules_that(board, says + "raise ImportError('none')\n")) as agent:
        agent.hear()
        (failed,) = agent.load(model, samples, runtime="hobot_dnn", threads=0)
        assert failed["is"] == "failed"
        agent.bye()
        assert "[BPU_PLAT]\nhello 0\n" in agent.stderr()


def test_a_worker_that_crashes_is_named(board: FakeBoard, model: Path, samples: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    with board.start(environment=modules_that(board, crash)) as agent:
        agent.hear()
        assert agent.load(model, samples, runtime="hobot_dnn", threads=0) == []
        assert agent.process.wait(5) == 1
        assert "the worker ended by itself (SIGSEGV)" in agent.stderr()
    assert not list(board.root.iterdir())


def test_the_supervisor_loads_no_runtime(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.start() as agent:
        agent.hear()
        agent.load(model, samples)
        own, worker = (Path(f"/proc/{pid}/maps").read_text() for pid in (agent.process.pid, agent.worker()))
        assert "onnxruntime" in worker and "onnxruntime" not in own and "numpy" not in own
        assert os.getsid(agent.worker()) == agent.worker(), "a session of its own"
