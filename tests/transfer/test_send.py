"""send: the file that is there in the end is ours, and only what the board did not have was sent."""

from __future__ import annotations

import ast
import os
import random
import shutil
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
from bpudeploy.transfer.receiver import BLOCK, SPAN, record
from bpudeploy.transfer.send import How, Sent, send
from tests.transfer.conftest import Server

OVERHEAD = 20_000
"""Bytes: our script, twice, and the orders. The records of the bases add 1 % of the file at most."""


def go(
    board: SshBoard, local: Path, remote: Path, *bases: Path, progress: Callable[[int, int], None] | None = None
) -> Sent:
    """Send, and hold the outcome to the promise."""
    there = [PurePosixPath(base) for base in bases]
    sent = send(board, local, PurePosixPath(remote), bases=there, step="push", progress=progress)
    assert remote.read_bytes() == local.read_bytes()
    size = local.stat().st_size
    assert sent.wire_bytes <= 1.01 * size + OVERHEAD
    return sent


@pytest.mark.parametrize("size", [0, 1, SPAN - 1, SPAN, 3 * SPAN + 17])
def test_a_file_arrives_and_a_second_time_nothing_is_sent(board: SshBoard, tmp_path: Path, size: int) -> None:
    local, remote = tmp_path / "a file'\"", tmp_path / "it's $HOME; -n *"
    local.write_bytes(os.urandom(size))
    first, again = go(board, local, remote), go(board, local, remote)
    assert first.how is How.WHOLE and first.reused_bytes == 0
    assert again.reused_bytes == size and again.wire_bytes < OVERHEAD


def test_a_part_is_continued(board: SshBoard, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    data = os.urandom(5 * SPAN)
    local.write_bytes(data)
    remote.write_bytes(data[: 3 * SPAN + 1000])
    sent = go(board, local, remote)
    assert (sent.how, sent.reused_bytes) == (How.RESUMED, 3 * SPAN + 1000)
    assert sent.wire_bytes < 2 * SPAN + OVERHEAD


def test_a_part_that_is_wrong_is_kept_as_far_as_it_is_right(board: SshBoard, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    data = os.urandom(5 * SPAN)
    local.write_bytes(data)
    remote.write_bytes(data[: 3 * SPAN - 5000] + bytes(5000))  # a power cut's zeros
    assert go(board, local, remote).reused_bytes == 2 * SPAN
    remote.write_bytes(data + b"more")
    assert go(board, local, remote).reused_bytes == 5 * SPAN
    remote.write_bytes(b"x" + data[1:])
    assert go(board, local, remote).how is How.WHOLE


def test_another_name_of_an_old_file_keeps_its_bytes(board: SshBoard, tmp_path: Path) -> None:
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
        assert sent.how is How.CHUNKED
        assert sent.wire_bytes < 20 * (5000 + BLOCK) + 0.0025 * 10_000_000 + OVERHEAD
        again = go(board, local, old, old)  # in its own place
        assert again.how is How.CHUNKED and again.wire_bytes < 250_000


def test_a_cut_delta_goes_on_with_the_same_bases(server: Server, tmp_path: Path) -> None:
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    old.write_bytes(os.urandom(8 * SPAN))
    local.write_bytes(edited(old.read_bytes(), 10, 50_000, seed=10))
    remote.write_bytes(local.read_bytes()[: 4 * SPAN + 7])
    with server.reached() as board:
        sent = go(board, local, remote, old)
    assert sent.how is How.CHUNKED and sent.wire_bytes < 500_000


def test_bases_need_python_and_without_it_the_file_is_whole(server: Server, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(100_000))
    shutil.copyfile(local, tmp_path / "old")
    with server.reached(python="no-python") as board:
        assert go(board, local, remote, tmp_path / "old").how is How.WHOLE


@pytest.mark.parametrize("version", ["2.7.18", "3.8.18", "3.9.18", "3.12.1"])
def test_an_older_python_on_the_board(server: Server, tmp_path: Path, version: str) -> None:
    python = Path.home() / ".pyenv" / "versions" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"Python {version} is not on this machine")
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(100_000))
    (tmp_path / "old").write_bytes(local.read_bytes()[:-10_000])
    with server.reached(python=str(python)) as board:
        how = go(board, local, remote, tmp_path / "old").how
    assert how is (How.WHOLE if version.startswith("2") else How.CHUNKED)  # 2.7: as a board without


def test_the_board_s_script_is_python_3_8_and_short() -> None:
    text = Path(receiver.__file__).read_text()
    ast.parse(text, feature_version=(3, 8))
    assert len(text) < 6000, "it is sent twice per file"
    used = {n.names[0].name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import)}
    assert used <= set(sys.stdlib_module_names)


def test_progress_only_grows_and_ends_at_the_whole(board: SshBoard, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(os.urandom(3 * SPAN))
    remote.write_bytes(local.read_bytes()[:SPAN])
    seen: list[tuple[int, int]] = []
    go(board, local, remote, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (SPAN, 3 * SPAN) and seen[-1] == (3 * SPAN, 3 * SPAN) and seen == sorted(seen)


# --- what the board says is not believed


def test_a_base_that_changes_after_it_was_read_does_no_harm(
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
    assert sent.wire_bytes < 3 * SPAN + 2 * OVERHEAD, "the right beginning was kept"


@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_bit_in_what_arrives_is_found(
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
        with pytest.raises(BoardError, match=f"board {board.name!r}, push: .* is not what was sent, twice"):
            send(board, local, PurePosixPath(remote), step="push")
        send(board, local, PurePosixPath(remote), step="push")
    assert remote.read_bytes() == local.read_bytes()


def test_a_base_with_flipped_bits_is_used_where_it_is_right(server: Server, tmp_path: Path) -> None:
    old, local, remote = tmp_path / "old", tmp_path / "l", tmp_path / "r"
    data = os.urandom(4 * SPAN)
    local.write_bytes(data)
    spoiled = bytearray(data)
    for at in (5, SPAN, 3 * SPAN + 99):
        spoiled[at] ^= 64
    old.write_bytes(spoiled)
    with server.reached() as board:
        assert go(board, local, remote, old).reused_bytes == 4 * SPAN - 3 * BLOCK


# --- for random files, edits and cuts

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


def records(data: bytes) -> bytes:
    return b"".join(record(data[i : i + BLOCK]) for i in range(0, len(data) - BLOCK + 1, BLOCK))


def made(found: list[Part], data: bytes, bases: list[bytes]) -> bytes:
    return b"".join(
        data[p.start : p.end] if isinstance(p, Literal) else bases[p.base][p.at : p.at + p.length] for p in found
    )


@settings(max_examples=300, deadline=None)
@given(CONTENT, st.lists(EDIT, max_size=4), st.lists(EDIT, max_size=4), st.floats(0, 1))
def test_the_parts_make_the_file(
    drawn: tuple[int, int, int],
    first: list[tuple[float, int, bytes]],
    second: list[tuple[float, int, bytes]],
    kept: float,
) -> None:
    old = content(drawn)
    bases = [old, changed(old, first)]
    data = changed(bases[1], second)
    start = int(kept * len(data))
    found = list(parts(memoryview(data), start, [records(base) for base in bases]))
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
