"""The vendor's tool as the only runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpudeploy.agent.drivers.base import Refused
from bpudeploy.agent.drivers.hrt_model_exec import Tool, open_session
from tests.agent.drivers.small import NV12_ERROR, artifact, expected, network, pictures, same_answer
from tests.fakes.board.artifact import runnable
from tests.fakes.board.fixtures import Board

On = Callable[..., Board]


@pytest.mark.parametrize(
    ("name", "input_type", "error"),
    [
        ("x3", "nv12", NV12_ERROR),
        ("x5", "nv12", NV12_ERROR),
        ("x5", "rgb-nhwc", 1e-5),
        ("x3", "rgb-nchw", 1e-5),
        ("s100", "nv12", NV12_ERROR),
        ("s100", "rgb-nhwc", 1e-5),
    ],
)
def test_logits_match_the_network(name: str, input_type: str, error: float, fake_board: On, tmp_path: Path) -> None:
    board = fake_board(name, runtimes=())
    session = open_session(artifact(tmp_path, board.march, input_type), 0)
    assert (session.driver, session.batch, session.times_frames) == ("hrt_model_exec", 1, False)
    assert "HBRT" in session.runtime
    pixels = pictures(seed=3)
    logits, right = session.infer(session.prepare(pixels)), expected(pixels)
    assert np.abs(logits - right).max() < error and same_answer(logits, right)
    session.close()


@pytest.mark.parametrize(("name", "scales"), [("x5", (0.002,)), ("s100", tuple(0.001 * (i + 1) for i in range(10)))])
def test_integers_are_scaled(name: str, scales: tuple[float, ...], fake_board: On, tmp_path: Path) -> None:
    path = artifact(tmp_path, fake_board(name).march, "rgb-nhwc", output="int32", scales=scales)
    session, pixels = open_session(path, 0), pictures()
    assert np.abs(session.infer(session.prepare(pixels)) - expected(pixels)).max() <= max(scales) / 2 + 1e-4


def test_nothing_is_left_in_the_temporary_folder(
    fake_board: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    board = fake_board("x5")
    session = open_session(artifact(tmp_path, board.march), 0)
    session.infer(session.prepare(pictures()))
    session.layers([])
    board.set(fail="infer")
    with pytest.raises(Refused):
        session.infer(session.prepare(pictures()))
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("asked", "ran"), [(1, 1), (199, 199), (200, 200), (201, 400), (1000, 1000)])
def test_min_and_max_are_always_reported(asked: int, ran: int, fake_board: On, tmp_path: Path) -> None:
    said = open_session(artifact(tmp_path, fake_board("x5").march), 0).timed(asked, 1)
    assert said.frames == ran and said.min_ms < said.mean_ms < said.max_ms


def test_more_streams_than_the_tool_has_are_refused(fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("x3").march), 0)
    assert session.timed(200, 8).streams == 8
    with pytest.raises(Refused, match="in 8 threads, not 200 in 9"):
        session.timed(200, 9)


@pytest.mark.parametrize(
    ("fail", "act", "why"),
    [
        ("contradict", "timed", "inconsistent perf output"),
        ("new", "open", "'something new: 1' after the model's end"),
        ("infer", "timed", "task failed, error code: -100001"),
        ("infer", "infer", "task failed, error code: -100001"),
        ("crash", "infer", "status -11|status 139"),
    ],
)
def test_failures_are_reported(fail: str, act: str, why: str, fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5")
    path = artifact(tmp_path, board.march)
    session = open_session(path, 0)
    board.set(fail=fail)
    with pytest.raises(Refused, match=why):
        if act == "open":
            open_session(path, 0)
        elif act == "timed":
            session.timed(200, 1)
        else:
            session.infer(session.prepare(pictures()))


@pytest.mark.parametrize(("name", "march", "at"), [("x5", "bernoulli2", "perf"), ("s100", "nash-m", "model_info")])
def test_an_artifact_of_another_chip(name: str, march: str, at: str, fake_board: On, tmp_path: Path) -> None:
    fake_board(name)
    with pytest.raises(Refused, match=f"{at} failed: .*latform") as refused:
        open_session(artifact(tmp_path, march), 0).timed(200, 1)
    assert "compile for this board's march" in refused.value.hint


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"batch": 2}, "NV12 with batch size 2"),
        ({"input_type": "rgb-nhwc", "output": "int32", "scales": ()}, "S32 with no scale"),
    ],
)
def test_unsupported_inputs_are_refused(made: dict[str, Any], why: str, fake_board: On, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=why):
        open_session(artifact(tmp_path, fake_board("x5").march, **made), 0)


def test_a_missing_tool_and_a_missing_file_are_refused(
    fake_board: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = fake_board("x5")
    with pytest.raises(Refused, match=r"open model file .*none\.bin failed"):
        open_session(str(tmp_path / "none.bin"), 0)
    with pytest.raises(Refused, match="no setting for CPU threads"):
        open_session("net.bin", 1)
    (board.bin / "hrt_model_exec").unlink()
    monkeypatch.setenv("PATH", str(board.bin))
    with pytest.raises(Refused, match="the board has no hrt_model_exec"):
        open_session("net.bin", 0)


def test_the_tool_is_killed_at_its_time_limit(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5")
    path = artifact(tmp_path, board.march)
    board.set(fail="hang")
    began = time.monotonic()
    with pytest.raises(Refused, match="longer than 2 s and was killed"):
        Tool(str(board.bin / "hrt_model_exec"), path).run("perf", [], str(tmp_path), 2.0)
    assert time.monotonic() - began < 20
    assert not processes(path)


def processes(path: str) -> list[int]:
    """Return the fake tools with ``path`` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if entry.name.isdigit() and b"fakeboard" in words and path.encode() in words:
            found.append(int(entry.name))
    return found


def test_a_child_ends_with_its_parent(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5")
    path = artifact(tmp_path, board.march)
    board.set(fail="hang")
    code = f"""
from bpudeploy.agent.drivers.hrt_model_exec import Tool
Tool({str(board.bin / "hrt_model_exec")!r}, {path!r}).run("perf", [], {str(tmp_path)!r}, 60.0)
"""
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
    try:
        until(lambda: bool(processes(path)))
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    until(lambda: not processes(path))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(board: Board, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([board.bin / "hrt_model_exec", *argv], capture_output=True, text=True, check=False)


def test_the_fakes_flags_are_those_of_the_tool(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5")
    path = artifact(tmp_path, board.march)
    told = run(board, "perf", "--model_file=none", "--model_file", path, "yyy.bin", "--thread_num", "20")
    assert told.returncode == 0 and "Thread number is: 8" in told.stdout
    assert told.stdout.startswith("[BPU_PLAT]BPU Platform Version(1.3.6)! soc info(x5)\n[HBRT] set log level as 0.")
    assert "unknown command line flag 'frames'" in run(board, "perf", "--frames", "2").stdout
    assert "unknown command line flag 'input_stride'" in run(board, "infer", "--input_stride=1").stdout
    assert run(board, "bench").returncode == 1
    assert "1.24.5" in run(board, "--version").stdout


def test_a_runnable_artifact_keeps_its_facts(tmp_path: Path) -> None:
    from tests.fakes.board.artifact import MAGIC
    from tests.fakes.products import MAGIC as THEIRS
    from tests.fakes.products import facts_of

    path = Path(artifact(tmp_path, "nash-e", facts={"level": "O2"}))
    assert facts_of(path)["march"] == "nash-e" and facts_of(path)["level"] == "O2"
    assert {kind: THEIRS[kind] for kind in MAGIC} == MAGIC
    with pytest.raises(AssertionError):
        runnable(network(), "bin", "nash-e", "nv12")
