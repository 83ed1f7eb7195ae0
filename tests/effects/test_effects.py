"""push and bench on a real board: cut at every step, the board has the old release or the new one, intact."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bpudeploy.boards.base import Output
from bpudeploy.boards.embedded import ServerKind, open_embedded
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.digest import digest_file
from bpudeploy.effects.bench import bench
from bpudeploy.effects.push import push
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Progress
from bpudeploy.release import Manifest, Release
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.stage import Artifact, Kind


def quiet(event: Event) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    with open_embedded(tmp_path_factory.mktemp("b"), server=ServerKind.PYTHON) as opened:
        yield opened


@pytest.fixture
def root(board: SshBoard, tmp_path: Path) -> Path:
    """Give the board an empty root of this test's own, with an odd name."""
    board.root = PurePosixPath(tmp_path / "it's $HOME; root")
    return Path(board.root)


def release(folder: Path, content: bytes, name: str = "r") -> Release:
    path = folder / f"{hashlib.sha256(content).hexdigest()}.bin"
    path.write_bytes(content)
    binary = Artifact(Kind.BINARY, digest_file(path), path)
    manifest = Manifest(name, "local", "cpu", "ort", "onnxruntime", binary.digest, {"compile": (binary.digest,)})
    return Release(manifest, binary)


def current(root: Path) -> bytes | None:
    """Return the binary that the board would load, after holding it to its manifest."""
    link = root / "current"
    if not link.exists():
        return None
    data = (link / "model.bin").read_bytes()
    assert hashlib.sha256(data).hexdigest() in (link / "manifest.json").read_text()
    return data


def test_a_first_push_then_nothing_then_a_new_release(board: SshBoard, root: Path, tmp_path: Path) -> None:
    one, two = release(tmp_path, b"one" * 1000), release(tmp_path, b"two" * 1000)
    first = push(board, one, quiet)
    assert first.changed and first.bytes_sent > 3000 and current(root) == b"one" * 1000
    again = push(board, one, quiet)
    assert not again.changed and again.bytes_sent == 0
    push(board, two, quiet)
    assert current(root) == b"two" * 1000 and (root / "previous" / "model.bin").read_bytes() == b"one" * 1000
    assert not list((root / "incoming").iterdir())


def test_a_damaged_release_is_healed(board: SshBoard, root: Path, tmp_path: Path) -> None:
    one = release(tmp_path, b"one" * 1000)
    push(board, one, quiet)
    (root / "current" / "model.bin").write_bytes(b"bad" * 1000)
    assert push(board, one, quiet).changed and current(root) == b"one" * 1000


def test_old_releases_go_and_those_in_use_stay(board: SshBoard, root: Path, tmp_path: Path) -> None:
    for number in range(6):
        push(board, release(tmp_path, b"%d" % number), quiet)
    assert len(list((root / "releases").iterdir())) == 3
    assert current(root) == b"5" and (root / "previous" / "model.bin").read_bytes() == b"4"


def test_only_a_release_of_ours_is_ever_removed(board: SshBoard, root: Path, tmp_path: Path) -> None:
    push(board, release(tmp_path, b"x"), quiet)
    (root / "notes.txt").write_text("mine")
    for number in range(5):
        push(board, release(tmp_path, b"%d" % number), quiet)
    assert (root / "notes.txt").read_text() == "mine"


class Faulty:
    """A board whose ``at``-th call goes wrong: before it happens, after it happened, or with flipped bytes."""

    def __init__(self, board: SshBoard, at: int, how: str) -> None:
        self.board, self.at, self.how, self.calls = board, at, how, 0
        self.name, self.python, self.root = board.name, board.python, board.root

    def _call(self, work: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls == self.at and self.how == "before":
            raise BoardError("cut", board=self.name, step="push")
        made = work()
        if self.calls == self.at and self.how == "after":
            raise BoardError("cut", board=self.name, step="push")
        return made

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> Output:
        made: Output = self._call(lambda: self.board.run(argv, timeout=timeout, step=step))
        return made

    def stream(self, argv: Sequence[str], *, timeout: float, step: str) -> Iterator[str]:
        return self.board.stream(argv, timeout=timeout, step=step)

    def put(
        self, local: Path, remote: PurePosixPath, *, step: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._call(lambda: self.board.put(local, remote, step=step, progress=progress))
        if self.calls == self.at and self.how == "flip":
            data = bytearray(Path(remote).read_bytes())
            data[len(data) // 2] ^= 1
            Path(remote).write_bytes(data)
        if self.calls == self.at and self.how == "half":
            os.truncate(remote, Path(remote).stat().st_size // 2)
            raise BoardError("cut in mid-file", board=self.name, step="push")


@pytest.mark.parametrize("how", ["before", "after", "flip", "half"])
def test_cut_at_every_call_the_board_has_the_old_or_the_new(
    board: SshBoard, root: Path, tmp_path: Path, how: str
) -> None:
    old, new = release(tmp_path, b"old" * 1000), release(tmp_path, b"new" * 1000)
    push(board, old, quiet)
    cuts = 0
    for at in range(1, 60):
        faulty = Faulty(board, at, how)
        try:
            push(faulty, new, quiet)
        except BoardError:
            cuts += 1
        assert current(root) in (b"old" * 1000, b"new" * 1000)
        push(board, new, quiet)
        assert current(root) == b"new" * 1000, "the next push heals"
        push(board, old, quiet)
        if faulty.calls < at:
            break
    assert cuts >= (2 if how in ("flip", "half") else 10)
    assert faulty.calls < at, "every call was cut"


def test_a_full_board_is_refused_before_anything_is_sent(board: SshBoard, root: Path, tmp_path: Path) -> None:
    class Full(Faulty):
        def run(self, argv: Sequence[str], *, timeout: float, step: str) -> Output:
            if argv[0] == "df":
                return Output(0, "Filesystem 1024-blocks Used Available Capacity Mounted on\nx 9 8 1 99% /\n", "")
            return self.board.run(argv, timeout=timeout, step=step)

        def put(self, *args: Any, **kwargs: Any) -> None:
            pytest.fail("it sent something")

    with pytest.raises(BoardError, match="MB are free"):
        push(Full(board, 0, ""), release(tmp_path, b"x" * 5000), quiet)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_root_that_cannot_be_written_says_so(board: SshBoard, tmp_path: Path) -> None:
    board.root = PurePosixPath("/proc/nowhere")
    with pytest.raises(BoardError, match="`mkdir` failed"):
        push(board, release(tmp_path, b"x"), quiet)


# --- bench


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


METHOD = BenchmarkSpec(warmup=3, min_frames=20, min_seconds=0, threads=1)


def samples(path: Path) -> Artifact:
    return Artifact(Kind.SAMPLES, digest_file(path), path)


def test_the_board_s_answers_are_the_network_s(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    import numpy as np

    installed, events = release(tmp_path, network[0]), list[Event]()
    push(board, installed, quiet)
    measured = bench(board, installed, samples(network[1]), METHOD, events.append)
    np.testing.assert_allclose(np.array(measured.logits), network[2], rtol=1e-5)
    assert (measured.correct, measured.images) == (6, 7)
    assert measured.latency.frames == 20 and measured.warmup_frames == 3 and measured.peak_memory_mb > 1
    assert measured.facts.cores >= 1 and measured.release == installed.digest
    assert any(isinstance(e, Progress) and (e.done, e.total) == (7, 7) for e in events)
    longer = bench(board, installed, samples(network[1]), METHOD.model_copy(update={"min_seconds": 0.3}), quiet)
    assert sum(longer.latency.samples_ms) / 1000 > 0.1 and longer.latency.frames > 20


def test_damaged_samples_are_sent_again(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any]
) -> None:
    installed = release(tmp_path, network[0])
    push(board, installed, quiet)
    bench(board, installed, samples(network[1]), METHOD, quiet)
    (there,) = (root / "data").glob("*.safetensors")
    there.write_bytes(b"\0" * there.stat().st_size)
    assert bench(board, installed, samples(network[1]), METHOD, quiet).correct == 6


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Welcome to Ubuntu'", "not its protocol"),
        ('echo \'{"kind": "done", "images": 7}\'', "not its protocol"),
        ("exit 0", "ended too early"),
        ("echo 'Traceback: no module named onnxruntime' >&2; exit 1", "no module named onnxruntime"),
        ("kill -9 $$", "board"),
    ],
)
def test_an_agent_that_misbehaves_is_a_board_error(
    board: SshBoard, root: Path, tmp_path: Path, network: tuple[bytes, Path, Any], script: str, message: str
) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    installed = release(tmp_path, network[0])
    push(board, installed, quiet)
    before, board.python = board.python, str(python)
    try:
        with pytest.raises(BoardError, match=message):
            bench(board, installed, samples(network[1]), METHOD, quiet)
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
    installed = release(tmp_path, network[0])
    push(board, installed, quiet)
    with pytest.raises(BoardError, match="it exited 1"):
        bench(board, installed, samples(path), METHOD, quiet)


def test_the_agent_ends_with_its_connection(tmp_path: Path, network: tuple[bytes, Path, Any]) -> None:
    import subprocess
    import sys
    import time

    from bpudeploy.effects.bench import AGENT

    (tmp_path / "m.onnx").write_bytes(network[0])
    command = [sys.executable, str(AGENT), "--model", str(tmp_path / "m.onnx"), "--samples", str(network[1])]
    command += ["--warmup", "0", "--min-frames", "10", "--min-seconds", "1000"]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert agent.stdin is not None and agent.stdout is not None
    assert '"facts"' in agent.stdout.readline()
    agent.stdin.close()
    started = time.monotonic()
    assert agent.wait(timeout=10) != 0 and time.monotonic() - started < 5
    agent.stdout.close()


def test_the_agent_is_one_file_for_older_pythons() -> None:
    import ast
    import sys

    from bpudeploy.effects.bench import AGENT

    tree = ast.parse(AGENT.read_text(), feature_version=(3, 8))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} <= {*sys.stdlib_module_names, "numpy", "onnxruntime"}
