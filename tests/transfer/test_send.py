"""send: the remote file equals the local one, and only missing bytes are sent."""

from __future__ import annotations

import ast
import os
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.transfer import edited
from bpudeploy.boards.base import CommandOutput
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.errors import BoardError
from bpudeploy.transfer import receiver
from bpudeploy.transfer.delta import Copy, Literal, Part, parts
from bpudeploy.transfer.receiver import BLOCK, SPAN, block_digest
from bpudeploy.transfer.send import SendMethod, SendResult, send
from tests.transfer.conftest import Server

OVERHEAD = 20_000
"""Bytes: the script, twice, and the orders. Block digests of the bases add at most 1 % of the file."""


def go(
    board: SshBoard, local: Path, remote: Path, *bases: Path, progress: Callable[[int, int], None] | None = None
) -> SendResult:
    """Send, and check the remote file and the bytes sent."""
    paths = [PurePosixPath(base) for base in bases]
    sent = send(board, local, PurePosixPath(remote), bases=paths, step="push", progress=progress)
    assert remote.read_bytes() == local.read_bytes()
    size = local.stat().st_size
    assert sent.wire_bytes <= 1.01 * size + OVERHEAD
    return sent


@pytest.mark.parametrize("size", [0, 1, SPAN - 1, SPAN, 3 * SPAN + 17])
def test_a_file_arrives_and_is_not_sent_again(board: SshBoard, tmp_path: Path, size: int) -> None:
    local, remote = tmp_path / "a file'\"", tmp_path / "it's $HOME; -n *"
    local.write_bytes(os.urandom(size))
    first, again = go(board, local, remote), go(board, local, remote)
    assert first.method is SendMethod.WHOLE and first.reused_bytes == 0
    assert again.reused_bytes == size and again.wire_bytes < OVERHEAD


def test_a_partial_file_is_resumed(board: SshBoard, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    data = os.urandom(5 * SPAN)
    local.write_bytes(data)
    remote.write_bytes(data[: 3 * SPAN + 1000])
    sent = go(board, local, remote)
    assert (sent.method, sent.reused_bytes) == (SendMethod.RESUMED, 3 * SPAN + 1000)
    assert sent.wire_bytes < 2 * SPAN + OVERHEAD


def test_the_correct_prefix_of_a_wrong_file_is_kept(board: SshBoard, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    data = os.urandom(5 * SPAN)
    local.write_bytes(data)
    remote.write_bytes(data[: 3 * SPAN - 5000] + bytes(5000))  # a power cut's zeros
    assert go(board, local, remote).reused_bytes == 2 * SPAN
    remote.write_bytes(data + b"more")
    assert go(board, local, remote).reused_bytes == 5 * SPAN
    remote.write_bytes(b"x" + data[1:])
    assert go(board, local, remote).method is SendMethod.WHOLE


def test_a_hard_link_to_the_old_file_is_unchanged(board: SshBoard, tmp_path: Path) -> None:
    local, remote, other = tmp_path / "l", tmp_path / "r", tmp_path / "other"
    local.write_bytes(b"new" * 1000)
    remote.write_bytes(b"old" * 1000)
    other.hardlink_to(remote)
    go(board, local, remote)
    assert other.read_bytes() == b"old" * 1000


def test_a_small_change_sends_little(server: Server, tmp_path: Path) -> None:
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    old.write_bytes(os.urandom(10_000_000))
    local.write_bytes(edited(old.read_bytes(), 20, 5000, seed=20))
    with server.reached() as board:
        sent = go(board, local, remote, tmp_path / "not there", old)
        assert sent.method is SendMethod.CHUNKED
        assert sent.wire_bytes < 20 * (5000 + BLOCK) + 0.0025 * 10_000_000 + OVERHEAD
        again = go(board, local, old, old)  # in its own place
        assert again.method is SendMethod.CHUNKED and again.wire_bytes < 250_000


def test_an_interrupted_delta_is_resumed_with_the_same_bases(server: Server, tmp_path: Path) -> None:
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    old.write_bytes(os.urandom(8 * SPAN))
    local.write_bytes(edited(old.read_bytes(), 10, 50_000, seed=10))
    remote.write_bytes(local.read_bytes()[: 4 * SPAN + 7])
    with server.reached() as board:
        sent = go(board, local, remote, old)
    assert sent.method is SendMethod.CHUNKED and sent.wire_bytes < 500_000


OLD, USABLE = ("2.7.18", "3.6.15", "3.7.16"), ("3.8.18", "3.9.18", "3.12.1")


@pytest.mark.parametrize("version", [*OLD, *USABLE])
def test_python_3_8_is_the_oldest_that_works(server: Server, tmp_path: Path, version: str) -> None:
    python = Path.home() / ".pyenv" / "versions" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"Python {version} is not on this machine")
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(100_000))
    (tmp_path / "old").write_bytes(local.read_bytes()[:-10_000])
    with server.reached(python=str(python)) as board:
        if version in OLD:
            with pytest.raises(BoardError, match=f"push: no Python 3.8 or newer: '{python}' failed"):
                go(board, local, remote, tmp_path / "old")
        else:
            assert go(board, local, remote, tmp_path / "old").method is SendMethod.CHUNKED


def test_the_board_s_script_is_python_3_8_and_short() -> None:
    text = Path(receiver.__file__).read_text()
    ast.parse(text, feature_version=(3, 8))
    assert len(text) < 6000, "it is sent twice per file"
    used = {n.names[0].name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import)}
    assert used <= set(sys.stdlib_module_names)


def test_progress_is_monotonic_and_ends_at_the_total(board: SshBoard, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(3 * SPAN))
    remote.write_bytes(local.read_bytes()[:SPAN])
    seen: list[tuple[int, int]] = []
    go(board, local, remote, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (SPAN, 3 * SPAN) and seen[-1] == (3 * SPAN, 3 * SPAN) and seen == sorted(seen)


# --- the board's data is not trusted


def test_a_base_that_changes_after_it_was_read_is_detected(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    old.write_bytes(os.urandom(4 * SPAN))
    local.write_bytes(edited(old.read_bytes(), 4, 1000, seed=4))
    feed = SshBoard.run_with_input

    def damage(
        board: SshBoard, argv: list[str], pieces: Iterable[bytes], *, timeout: float, step: str
    ) -> CommandOutput[bytes]:
        if "receive" in argv:
            data = bytearray(old.read_bytes())
            data[2 * SPAN + 5] ^= 1
            old.write_bytes(data)
        return feed(board, argv, pieces, timeout=timeout, step=step)

    monkeypatch.setattr(SshBoard, "run_with_input", damage)
    with server.reached() as board:
        sent = send(board, local, PurePosixPath(remote), bases=[PurePosixPath(old)], step="push")
    assert remote.read_bytes() == local.read_bytes()
    assert sent.wire_bytes < 3 * SPAN + 2 * OVERHEAD, "the correct prefix was kept"


@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_bit_in_received_data_is_detected(
    board: SshBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(2 * SPAN))
    feed, left = SshBoard.run_with_input, times

    def flip(
        board: SshBoard, argv: list[str], pieces: Iterable[bytes], *, timeout: float, step: str
    ) -> CommandOutput[bytes]:
        nonlocal left
        whole = bytearray(b"".join(pieces))
        if len(whole) > SPAN and left:
            left -= 1
            whole[len(whole) // 3] ^= 8
        return feed(board, argv, [bytes(whole)], timeout=timeout, step=step)

    monkeypatch.setattr(SshBoard, "run_with_input", flip)
    if times == 1:
        send(board, local, PurePosixPath(remote), step="push")
    else:
        with pytest.raises(BoardError, match=f"board {board.name!r}, push: the digest of .* was wrong twice"):
            send(board, local, PurePosixPath(remote), step="push")
        send(board, local, PurePosixPath(remote), step="push")
    assert remote.read_bytes() == local.read_bytes()


def test_correct_blocks_of_a_damaged_base_are_used(server: Server, tmp_path: Path) -> None:
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    data = os.urandom(4 * SPAN)
    local.write_bytes(data)
    spoiled = bytearray(data)
    for at in (5, SPAN, 3 * SPAN + 99):
        spoiled[at] ^= 64
    old.write_bytes(spoiled)
    with server.reached() as board:
        assert go(board, local, remote, old).reused_bytes == 4 * SPAN - 3 * BLOCK


# --- random files, edits and cuts

EDIT = st.tuples(st.floats(0, 1), st.integers(0, 9000), st.binary(max_size=9000))
CONTENT = st.tuples(st.integers(0, 60_000), st.sampled_from([1, 3, 256]), st.integers(0, 1 << 30))


def content(drawn: tuple[int, int, int]) -> bytes:
    size, letters, seed = drawn
    return bytes(random.Random(seed).choices(range(letters), k=size))


def changed(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for where, removed, added in edits:
        at = int(where * len(data))
        data = data[:at] + added + data[at + removed :]
    return data


def block_digests(data: bytes) -> bytes:
    return b"".join(block_digest(data[i : i + BLOCK]) for i in range(0, len(data) - BLOCK + 1, BLOCK))


def made(found: list[Part], data: bytes, bases: list[bytes]) -> bytes:
    return b"".join(
        data[p.start : p.end] if isinstance(p, Literal) else bases[p.base][p.at : p.at + p.length] for p in found
    )


@settings(max_examples=300, deadline=None)
@given(CONTENT, st.lists(EDIT, max_size=4), st.lists(EDIT, max_size=4), st.floats(0, 1))
def test_the_parts_add_up_to_the_file(
    drawn: tuple[int, int, int],
    first: list[tuple[float, int, bytes]],
    second: list[tuple[float, int, bytes]],
    kept: float,
) -> None:
    old = content(drawn)
    bases = [old, changed(old, first)]
    data = changed(bases[1], second)
    start = int(kept * len(data))
    found = list(parts(memoryview(data), start, [block_digests(base) for base in bases]))
    assert data[:start] + made(found, data, bases) == data
    assert sum(p.length if isinstance(p, Copy) else p.end - p.start for p in found) == len(data) - start
    touched = sum(2 * BLOCK + removed + len(added) for _, removed, added in second) + 2 * BLOCK
    if drawn[1] == 256 and not start:  # where blocks are all different, an edit costs itself and two blocks at most
        assert sum(p.end - p.start for p in found if isinstance(p, Literal)) <= touched


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=CONTENT, edits=st.lists(EDIT, max_size=3), part=st.floats(0, 1), junk=st.binary(max_size=50))
def test_any_file_over_any_leftovers(
    board: SshBoard,
    tmp_path: Path,
    drawn: tuple[int, int, int],
    edits: list[tuple[float, int, bytes]],
    part: float,
    junk: bytes,
) -> None:
    local, remote, old = tmp_path / "l", tmp_path / "r", tmp_path / "old"
    old.write_bytes(content(drawn))
    local.write_bytes(changed(old.read_bytes(), edits))
    remote.write_bytes(local.read_bytes()[: int(part * local.stat().st_size)] + junk)
    go(board, local, remote, old)
