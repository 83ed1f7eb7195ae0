"""The lock: two deployers take turns, the one who waits knows for whom, and a dead one holds nobody up."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpudeploy.boards.ssh import SshBoard
from bpudeploy.effects.lock import LockTiming, owner
from bpudeploy.effects.push import PushPolicy, push
from bpudeploy.effects.trust import trust
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note
from bpudeploy.signing import SigningKey
from bpudeploy.testing import embedded_board
from tests.effects.releases import Between, OnPath, policy, quiet, release, served, tools

UNHURRIED = LockTiming(wait_s=20, lease_s=60)


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def uptime() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


def held(root: Path, owner: str, *, at: int | None = None, on: str | None = None) -> None:
    root.mkdir(exist_ok=True)
    (root / "lock").symlink_to(f"feed {on or boot()} {uptime() if at is None else at} {owner}")


def test_who_waits_is_told_for_whom_and_since_when_and_not_for_ever(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    held(root, "ann@desk pid 12", at=uptime() - 90)
    events = list[Event]()
    brief = PushPolicy(key, timing=LockTiming(wait_s=1, lease_s=60))
    since = time.strftime("%H:%M:", time.localtime(time.time() - 90))
    with pytest.raises(BoardError, match=rf"ann@desk pid 12 holds the lock, last renewed at {since}\d\d; waited 1 s"):
        push(board, release(tmp_path, b"x"), brief, events.append)
    assert [e.text.endswith("waiting") for e in events if isinstance(e, Note)] == [True]
    assert str((root / "lock").readlink()).endswith("ann@desk pid 12"), "it is theirs still"


def test_a_silent_owner_s_lock_is_taken_over_after_the_lease(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    held(root, "ann@desk pid 12")
    events, started = list[Event](), time.monotonic()
    push(board, release(tmp_path, b"x"), PushPolicy(key, timing=LockTiming(20, lease_s=2)), events.append)
    assert 1 < time.monotonic() - started < 15 and served(root, key.public) == b"x"
    assert any(isinstance(e, Note) and "is inactive: taking over" in e.text for e in events)


def test_a_growing_upload_is_life(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    held(root, "ann@desk pid 12")
    (root / "incoming" / "theirs").mkdir(parents=True)
    stop = time.monotonic() + 5

    def grow() -> None:
        while time.monotonic() < stop:
            with (root / "incoming" / "theirs" / "model.bin").open("ab") as stream:
                stream.write(b"x")
            time.sleep(0.1)

    growing = threading.Thread(target=grow)
    growing.start()
    push(board, release(tmp_path, b"x"), PushPolicy(key, timing=LockTiming(30, lease_s=2)), quiet)
    assert time.monotonic() > stop + 1
    growing.join()


@pytest.mark.parametrize("of", ["an earlier boot", "a dead process of this machine"])
def test_what_cannot_be_alive_is_not_waited_for(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, of: str
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    if of == "an earlier boot":
        held(root, "ann@desk pid 12", on="0c7de1aa-0000-4000-8000-000000000000")
    else:
        held(root, owner().replace(f"pid {os.getpid()}", f"pid {dead.pid}"))
    started = time.monotonic()
    push(board, release(tmp_path, b"x"), PushPolicy(key, timing=UNHURRIED), quiet)
    assert time.monotonic() - started < 10 and served(root, key.public) == b"x"


@pytest.mark.parametrize("year", [1970, 2100])
def test_a_clock_that_is_off_by_years_changes_nothing(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, year: int
) -> None:
    """All file times are off, and no script asks for the date: the board has no tool that tells it."""
    tools_only = OnPath(board, tools(tmp_path), {}, only=True)
    for number in range(5):
        push(tools_only, release(tmp_path, b"%d" % number, built=number), policy(key), quiet)
        for path in root.rglob("*"):
            then = (year - 1970) * 31_556_952 + number
            os.utime(path, (then, then), follow_symlinks=False)
    assert served(root, key.public) == b"4" and served(root, key.public, "previous") == b"3"
    assert len(list((root / "releases").iterdir())) == 3


def test_who_lost_the_lock_while_silent_does_not_install(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    mine, theirs = release(tmp_path, b"mine" * 100), release(tmp_path, b"theirs" * 100)

    def stall(call: int, work: Callable[[], Any]) -> Any:
        if call == 2:  # our lock is held, our upload has not begun
            push(board, theirs, policy(key), quiet)
        return work()

    with pytest.raises(BoardError, match=r"lock was taken over|No such file|incoming"):
        push(Between(board, stall), mine, PushPolicy(key, timing=UNHURRIED), quiet)
    assert served(root, key.public) == b"theirs" * 100
    push(board, mine, policy(key), quiet)
    assert served(root, key.public) == b"mine" * 100 and served(root, key.public, "previous") == b"theirs" * 100


def test_a_push_that_fails_gives_its_lock_back(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    def break_in_transfer(call: int, work: Callable[[], Any]) -> Any:
        if call == 2:
            raise BoardError("cut", board="b", step="push")
        return work()

    with pytest.raises(BoardError, match="cut"):
        push(Between(board, break_in_transfer), release(tmp_path, b"x"), PushPolicy(key, timing=UNHURRIED), quiet)
    assert not (root / "lock").is_symlink()


def test_a_lock_that_is_not_ours_is_left_alone(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    (root / "lock").symlink_to("apt")
    with pytest.raises(BoardError, match=r"the lock has an unknown format: 'apt'") as caught:
        push(board, release(tmp_path, b"x"), policy(key), quiet)
    assert caught.value.hint and "remove" in caught.value.hint


def test_a_read_only_folder_is_not_taken_for_a_lock(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    folder = tmp_path / "instead"
    folder.mkdir()
    (folder / "ln").write_text("#!/bin/sh\necho 'ln: Read-only file system' >&2\nexit 1\n")
    (folder / "ln").chmod(0o755)
    with pytest.raises(BoardError, match="Read-only file system"):
        push(OnPath(board, folder, {}), release(tmp_path, b"x"), policy(key), quiet)


def test_many_deployers_at_once_take_turns(tmp_path: Path, key: SigningKey) -> None:
    """Four connections, each pushing three releases of its own: every push succeeds or says whose turn it is."""
    from tests.effects.releases import its_root

    failures, root = list[BaseException](), tmp_path / "root"
    with embedded_board(tmp_path / "b0") as first, its_root(first, root):
        trust(first, key.public)

    def deploy(who: int) -> None:
        try:
            with embedded_board(tmp_path / f"b{who}") as board, its_root(board, root):
                folder = tmp_path / f"r{who}"
                folder.mkdir()
                for number in range(3):
                    new = release(folder, b"%d %d" % (who, number) * 1000)
                    push(board, new, PushPolicy(key, timing=LockTiming(120, lease_s=60)), quiet)
                    assert served(root, key.public)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=deploy, args=(who,)) for who in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert served(root, key.public) and not (root / "lock").is_symlink()
