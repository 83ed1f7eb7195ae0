"""Vendors' binaries on fake boards behind a real sshd: the Python runtimes, the tool alone, and what goes wrong."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import bpudeploy.effects.bench as bench_module
from bpudeploy import Release
from bpudeploy.boards.address import Address
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note
from tests.boards.sshd import Home, make_home, needs_sshd, serve
from tests.effects.releases import quiet, release
from tests.effects.test_bench import METHOD, measure
from tests.effects.test_bench import network as network
from tests.fakes.board.artifact import FAMILY, MARCHES, runnable
from tests.fakes.board.fixtures import RUNTIMES, Board, install

pytestmark = needs_sshd


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return make_home(tmp_path / "home", monkeypatch)


@contextmanager
def on(name: str, home: Home, tmp_path: Path, **has: Any) -> Iterator[tuple[SshBoard, Board]]:
    """Serve a fake x3, x5 or s100 by a real sshd, with this test's Python."""
    import sys

    fake = install(tmp_path / name, name, **has)
    path = f"{fake.bin}:{Path(sys.executable).parent}"
    with serve(
        tmp_path / "sshd", home, f"SetEnv PYTHONPATH={fake.lib} PATH={path}:/usr/bin:/bin HOME={tmp_path}"
    ) as up:
        home.know(up)
        root = PurePosixPath(tmp_path / "root")
        with open_ssh(Address.parse(up.address), name=name, python=sys.executable, root=root) as board:
            yield board, fake


def built(tmp_path: Path, name: str, network: tuple[bytes, Path, Any], input_type: str = "nv12") -> Release:
    march = MARCHES[name]
    made = release(tmp_path, runnable(network[0], FAMILY[march], march, input_type))
    return dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, runtime=RUNTIMES[name], march=march))


@pytest.mark.parametrize(
    ("name", "has", "driver"),
    [
        ("x3", {}, "hobot_dnn"),
        ("x5", {}, "hobot_dnn"),
        ("x5", {"runtimes": ()}, "hrt_model_exec"),
        ("s100", {}, "hbm_runtime"),
        ("s100", {"runtimes": ()}, "hrt_model_exec"),
    ],
)
def test_a_vendor_s_binary_is_measured(
    home: Home, tmp_path: Path, network: tuple[bytes, Path, Any], name: str, has: dict[str, Any], driver: str
) -> None:
    with on(name, home, tmp_path, **has) as (board, fake):
        fake.set(latency_ms=3.0)
        method = METHOD.model_copy(update={"threads": None, "min_frames": 60, "max_seconds": 60})
        (found,) = measure(board, [built(tmp_path, name, network)], network[1], tmp_path, method)
    assert found.runtime.startswith(driver) and found.latency is not None
    assert found.answers is not None and found.answers.top[1][0] == found.answers.labels[1]
    frames = {one.per_sample for one in found.rounds}
    if driver == "hrt_model_exec":
        assert frames != {1} and found.latency.p90_ms is None, "the tool tells means"
        assert found.latency.p50_ms.value == pytest.approx(3.0, rel=0.2)
    else:
        assert frames == {1} and found.latency.p90_ms is not None
    assert (
        found.latency.frames >= (20 if frames != {1} else 60)
        and found.throughput[0].streams == 2
        and found.throughput[0].fps.value > 0
    )
    assert "bpu" in {layer.where for layer in found.layers}


def test_a_board_without_the_tool_measures_one_stream_and_says_so(
    home: Home, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    told: list[Event] = []
    with on("x5", home, tmp_path, tools=()) as (board, _):
        method = METHOD.model_copy(update={"threads": None})
        (found,) = measure(board, [built(tmp_path, "x5", network)], network[1], tmp_path, method, told.append)
    assert found.throughput == () and found.layers == () and found.latency is not None
    assert any(isinstance(e, Note) and "several streams is not measured" in e.text for e in told)


@pytest.mark.parametrize(
    ("fail", "message"), [("infer", "forward failed"), ("crash", "SIGSEGV"), ("hang", "no output for")]
)
def test_a_runtime_that_fails_crashes_or_hangs(
    home: Home,
    tmp_path: Path,
    network: tuple[bytes, Path, Any],
    monkeypatch: pytest.MonkeyPatch,
    fail: str,
    message: str,
) -> None:
    monkeypatch.setattr(bench_module, "_FRAME_S", 1.0)
    method = METHOD.model_copy(update={"threads": None, "max_seconds": 0.5})
    with on("x5", home, tmp_path) as (board, fake):
        fake.set(fail=fail)
        with pytest.raises(BoardError, match=message):
            measure(board, [built(tmp_path, "x5", network)], network[1], tmp_path, method)
        deadline = time.monotonic() + 5
        while (left := agents(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, "a hung benchmark is killed on the board as well"
        fake.set()
        assert measure(board, [built(tmp_path, "x5", network)], network[1], tmp_path, method)


def test_a_binary_of_another_chip_is_refused_by_its_runtime(
    home: Home, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    method = METHOD.model_copy(update={"threads": None})
    with on("x5", home, tmp_path) as (board, _), pytest.raises(BoardError, match="forward failed") as caught:
        measure(board, [built(tmp_path, "x3", network)], network[1], tmp_path, method, quiet)
    assert caught.value.hint and "compile for this board's march" in caught.value.hint


def agents(root: Path) -> list[str]:
    """Return the command lines of what runs from under a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in line and "blobs" in line:
            found.append(line)
    return found
