"""bench on a real board: the agent's answers, two in turns, what it refuses, and going on where it was cut."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpudeploy import Measurement, Release
from bpudeploy.boards.base import Board, RemoteProcess
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.digest import digest_file
from bpudeploy.effects.bench import BenchBinary, bench
from bpudeploy.effects.push import push as push_by
from bpudeploy.effects.session_log import open_session_log
from bpudeploy.effects.verify import installed_binary
from bpudeploy.errors import BoardError, ConnectionLost
from bpudeploy.events import Event, Note, Progress
from bpudeploy.provenance import Provenance
from bpudeploy.results.compare import Design, compare
from bpudeploy.results.measurement import Caveat, Subject
from bpudeploy.results.session import Contender, Setting
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.stage import Artifact, Kind
from tests.effects.releases import policy, quiet, release


def push(board: SshBoard, installed: Release, emit: object) -> None:
    """Push without a signature: these tests are about what comes after."""
    push_by(board, installed, policy(None), quiet)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path, Any]:
    """Return a binary that answers with the mean of each channel, its samples, and its answers."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("n")
    nodes = [
        helper.make_node("Transpose", ["p"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Reshape", ["g", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("p", onnx.TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([1, 3]), "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    means = pixels.reshape(7, 64, 3).mean(axis=1)
    labels = means.argmax(axis=1).astype(np.int64)
    labels[0] = (labels[0] + 1) % 3  # one is wrong
    save_file({"pixels": pixels, "labels": labels}, folder / "s.safetensors")
    return model.SerializeToString(), folder / "s.safetensors", means


METHOD = BenchmarkSpec(
    warmup=1, rounds=3, min_frames=12, min_seconds=0, max_seconds=5, threads=1, streams=(2,), precision=100
)


def samples(path: Path) -> Artifact:
    return Artifact(Kind.SAMPLES, digest_file(path), path)


def measure(
    board: Board,
    releases: Sequence[Release],
    path: Path,
    folder: Path,
    method: BenchmarkSpec = METHOD,
    emit: Callable[[Event], None] = quiet,
) -> tuple[Measurement, ...]:
    """Bench releases, with a notebook in ``folder``."""
    from safetensors.numpy import load_file

    given = samples(path)
    labels = tuple(int(label) for label in load_file(path)["labels"])
    subjects = [
        Subject(recipe="r", target="local", march="cpu", backend="ort", release=r.digest, binary=r.manifest.binary)
        for r in releases
    ]
    setting = Setting(
        session=secrets.token_hex(4),
        made="2026-11-28T00:00:00+00:00",
        contenders=tuple(Contender(subject=one, expected=labels) for one in subjects),
        samples=given.digest,
        labels=labels,
        method=method,
        board=board.name,
        device="CPU (onnxruntime)",
        provenance=Provenance.MEASURED,
        versions={},
    )
    binaries = [BenchBinary(r.binary, r.manifest.runtime, installed_binary(board, r)) for r in releases]
    with open_session_log(folder / "book.jsonl", setting) as book:
        return bench(board, binaries, given, book, emit)


def test_the_board_s_answers_are_the_network_s(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    made, events = release(tmp_path, network[0]), list[Event]()
    push(board, made, quiet)
    (found,) = measure(board, [made], network[1], tmp_path, emit=events.append)
    assert found.answers is not None and found.latency is not None and found.score is not None
    assert found.answers.top == tuple(tuple(int(c) for c in (-row).argsort()) for row in network[2])
    assert sum(found.answers.right) == 6 and found.score.top5 is None
    assert len(found.rounds) >= 3 and found.latency.frames >= 12 and found.load_ms is not None
    assert [one.place for one in found.rounds] == list(range(len(found.rounds)))
    assert found.throughput[0].streams == 2 and found.throughput[0].fps.value > 0
    assert found.layers and {layer.where for layer in found.layers} == {"cpu"}
    assert found.peak_memory_mb is not None and found.peak_memory_mb > 1
    assert found.facts is not None and found.facts.cores >= 1 and found.runtime.startswith("onnxruntime ")
    assert found.conditions and found.conditions[0].at_s <= found.conditions[-1].at_s
    assert any(isinstance(e, Progress) and (e.done, e.total, e.unit) == (7, 7, "images") for e in events)
    assert not list(tmp_path.glob("*.jsonl")), "a session that ended well leaves no notebook"
    assert {p.name for p in root.iterdir()} >= {"blobs", "releases"} and not list(root.glob("agent-*"))


def test_two_are_measured_in_turns_and_nothing_is_activated(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    one = release(tmp_path, network[0])
    other = release(tmp_path, network[0] + b"\x72\x00", name="other")  # an empty field: another file, the same network
    push(board, one, quiet)
    a, b = measure(board, [one, other], network[1], tmp_path)
    assert a.session == b.session and len(a.rounds) == len(b.rounds)
    order = [who for _, who in sorted([(r.place, "a") for r in a.rounds] + [(r.place, "b") for r in b.rounds])]
    assert "".join(order).startswith("abbaab")
    (alone,) = measure(board, [one], network[1], tmp_path)
    for found_mb in (a.peak_memory_mb, b.peak_memory_mb):
        assert found_mb is not None and alone.peak_memory_mb is not None, "each had a process of its own for it"
        assert found_mb == pytest.approx(alone.peak_memory_mb, rel=0.1)
    found = compare([a], [b])
    assert found.design is Design.INTERLEAVED and found.pairs == len(a.rounds)
    assert found.accuracy is not None and found.accuracy.points.value == 0
    assert (root / "current").readlink() == Path("releases") / one.digest
    assert not (root / "releases" / other.digest).exists()


@pytest.mark.parametrize("what", ["safetensors", "zip"])
def test_what_is_damaged_on_the_board_is_sent_again(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any], what: str
) -> None:
    made = release(tmp_path, network[0])
    push(board, made, quiet)
    measure(board, [made], network[1], tmp_path)
    (there,) = (root / "blobs").glob(f"*.{what}")
    there.write_bytes(b"\0" * there.stat().st_size)
    (found,) = measure(board, [made], network[1], tmp_path)
    assert found.answers is not None and sum(found.answers.right) == 6


def test_a_binary_that_is_damaged_on_the_board_is_not_measured(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    made = release(tmp_path, network[0])
    push(board, made, quiet)
    there = root / "releases" / made.digest / "model.bin"
    there.chmod(0o644)
    there.write_bytes(network[0] + b"\0")
    with pytest.raises(BoardError, match="not the file that was sent"):
        measure(board, [made], network[1], tmp_path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Welcome to Ubuntu'", "invalid message from the agent"),
        ('echo \'{"is": "done"}\'', "did not start with protocol"),
        ('echo \'{"is": "hello", "agent": 1}\'', "invalid message from the agent"),
        ("exit 0", "exited unexpectedly"),
        ("echo 'Traceback: no module named json' >&2; exit 1", "no module named json"),
        ("kill -9 $$", "board"),
    ],
)
def test_an_agent_that_misbehaves_is_a_board_error(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any], script: str, message: str
) -> None:
    made = release(tmp_path, network[0])
    push(board, made, quiet)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase $* in *--root*) {script};; *) exec /usr/bin/env python3 "$@";; esac\n')
    python.chmod(0o755)
    before, board.python = board.python, str(python)
    try:
        with pytest.raises(BoardError, match=message):
            measure(board, [made], network[1], tmp_path)
    finally:
        board.python = before


@pytest.mark.parametrize("damage", ["short", "header", "other"])
def test_the_agent_refuses_samples_that_make_no_sense(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any], damage: str
) -> None:
    data = network[1].read_bytes()
    broken = {"short": data[:-10], "header": b"\xff" * 8 + data[8:], "other": b"not safetensors"}[damage]
    path = tmp_path / "s.safetensors"
    path.write_bytes(broken)
    made = release(tmp_path, network[0])
    push(board, made, quiet)
    setting = Setting(
        session="s",
        made="m",
        contenders=(
            Contender(
                subject=Subject(
                    recipe="r", target="t", march="m", backend="b", release=made.digest, binary=made.manifest.binary
                ),
                expected=None,
            ),
        ),
        samples="d",
        labels=(0,),
        method=METHOD,
        board="b",
        device="d",
        provenance=Provenance.MEASURED,
        versions={},
    )
    binary = BenchBinary(made.binary, "onnxruntime", installed_binary(board, made))
    with pytest.raises(BoardError, match="benchmark"), open_session_log(tmp_path / "n", setting) as book:
        bench(board, [binary], samples(path), book, quiet)


@dataclass
class FailingProcess:
    """A process whose connection is lost after a number of lines; records the lines sent to it."""

    inner: RemoteProcess
    left: int
    said: list[str]

    def send(self, line: str) -> None:
        self.said.append(line)
        self.inner.send(line)

    def receive(self, timeout: float) -> str | None:
        if self.left == 0:
            raise ConnectionLost("the connection was lost", board="b", step="benchmark")
        self.left -= 1
        return self.inner.receive(timeout)


@dataclass
class Frail:
    """A board whose agent is lost after ``lasts`` lines."""

    board: SshBoard
    lasts: int
    said: list[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.board, name)

    @contextmanager
    def start(self, argv: Sequence[str], *, step: str) -> Iterator[FailingProcess]:
        with self.board.start(argv, step=step) as process:
            yield FailingProcess(process, self.lasts, self.said)


def test_one_that_is_cut_again_and_again_does_nothing_twice(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    """Each attempt is lost a little later than the one before; what each was asked is counted."""
    made, notes = release(tmp_path, network[0]), list[Event]()
    push(board, made, quiet)
    said: list[str] = []
    found: Measurement | None = None
    attempts = 0
    while found is None:
        attempts += 1
        try:
            frail = Frail(board, 6 + 4 * attempts, said)
            (found,) = measure(frail, [made], network[1], tmp_path, emit=notes.append)
        except ConnectionLost:
            continue
    assert attempts > 3 and Caveat.INTERRUPTED in found.caveats
    assert found.answers is not None and sum(found.answers.right) == 6
    assert [one.index for one in found.rounds] == list(range(len(found.rounds)))
    assert any(isinstance(n, Note) and n.text.startswith("resumed after ") for n in notes)
    single = [line for line in said if '"streams": 1' in line]
    assert len(single) <= len(found.rounds) + attempts, "a round that was told is not asked for again"
    rounds = [one.started_s for one in found.rounds]
    assert rounds == sorted(rounds), "times go on over the cuts"
