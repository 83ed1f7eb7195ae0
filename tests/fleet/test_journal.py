"""The journal: one controller, commands from any process, and truncated lines."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bpudeploy.fleet.journal as journals
from bpudeploy.effects.lock import owner
from bpudeploy.errors import UsageError
from bpudeploy.fleet.events import BoardStarted, CommandGiven, Event, RolloutCommand, TaskKind
from bpudeploy.fleet.journal import Journal, append, controller, create, list_journals, take_control
from tests.fleet.test_view import order, planned, started, taken_up


def test_what_is_written_is_read_once_whoever_wrote_it(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 1))
    book, other = Journal(path), Journal(path)
    assert book.read_new() == (planned(0, 1),)
    book.append(taken_up(), started("a"))
    append(path, order(RolloutCommand.PAUSE))
    assert book.read_new() == (taken_up(), started("a"), order(RolloutCommand.PAUSE))
    assert book.read_new() == ()
    assert len(other.read_new()) == 4
    assert path.read_bytes().count(b"\n") == 4


def test_an_event_does_not_bring_a_deleted_journal_back(tmp_path: Path) -> None:
    path = create(tmp_path, planned())
    path.unlink()
    with pytest.raises(FileNotFoundError):
        append(path, order(RolloutCommand.PAUSE))
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_only_read_a_rollout_sees_who_controls_it(tmp_path: Path) -> None:
    path = create(tmp_path, planned())
    with take_control(path):
        for file in path.parent.iterdir():
            file.chmod(0o444)
        assert controller(path) == owner()


def test_a_rollout_is_found_whole_or_not_at_all_and_its_name_is_its_own(tmp_path: Path) -> None:
    create(tmp_path, planned(0))
    with pytest.raises(UsageError, match="rollout 'r' already exists"):
        create(tmp_path, planned(0))
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["journal.jsonl"]


def test_rollouts_are_listed_the_newest_first(tmp_path: Path) -> None:
    for name, at in [("b", 3.0), ("a", 2.0), ("c", 1.0)]:
        create(tmp_path, planned(0).model_copy(update={"rollout": name, "at": at}))
    (tmp_path / "begun").mkdir()
    assert [path.parent.name for path in list_journals(tmp_path)] == ["b", "a", "c"]
    assert list_journals(tmp_path / "none") == ()


@pytest.mark.parametrize("cut", [b'{"at":3.0,"event":"star', b"{", b"\0\0\0\0", b'{"by":"\xc3'])
def test_a_line_that_was_cut_is_not_believed_and_harms_none_after_it(tmp_path: Path, cut: bytes) -> None:
    path = create(tmp_path, planned(0))
    reader = Journal(path)
    reader.read_new()
    with path.open("ab") as stream:
        stream.write(cut)
    assert reader.read_new() == ()
    append(path, order(RolloutCommand.ABORT))
    assert reader.read_new() == (order(RolloutCommand.ABORT),)
    assert Journal(path).read_new() == (planned(0), order(RolloutCommand.ABORT))


def test_a_journal_cut_at_any_byte_reads_as_the_events_before(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    append(path, taken_up(), started("a"))
    text, all_of_it = path.read_bytes(), Journal(path).read_new()
    for size in range(len(text)):
        path.write_bytes(text[:size])
        assert Journal(path).read_new() == all_of_it[: text[:size].count(b"\n")]


def test_an_event_of_another_version_is_not_passed_over(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    with path.open("ab") as stream:
        stream.write(b'{"event":"exploded","at":1.0}\n')
    with pytest.raises(UsageError, match="an event that this version does not know"):
        Journal(path).read_new()


def test_a_disk_that_takes_half_a_line_is_an_error_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = create(tmp_path, planned(0)), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:20]))
    with pytest.raises(OSError, match="20 of"):
        append(path, started("a"))
    monkeypatch.undo()
    append(path, order(RolloutCommand.PAUSE))
    assert Journal(path).read_new() == (planned(0), order(RolloutCommand.PAUSE))


HOLD = """
import sys, time
from pathlib import Path
from bpudeploy.fleet.journal import take_control
with take_control(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_second_controller_is_refused_with_the_name_of_the_first_until_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_LOCK_WAIT_S", 0.1)
    path = create(tmp_path, planned(0))
    assert controller(path) is None
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None and first.stdout.readline() == b"mine\n"
        name = f"{owner().rpartition(' ')[0]} {first.pid}"
        with pytest.raises(UsageError, match=f"already controlled by {name}"), take_control(path):
            raise AssertionError("two controllers")
        assert controller(path) == name
        append(path, order(RolloutCommand.PAUSE))  # orders need no lock
        assert len(Journal(path).read_new()) == 2
    finally:
        first.kill()
        first.communicate()
    with take_control(path):
        assert controller(path) == owner()
    assert controller(path) is None


def _writes(path: Path, who: str) -> None:
    for i in range(200):
        append(path, CommandGiven(at=i, order=RolloutCommand.APPROVE, by=who * 50, wave=i))


def test_many_who_write_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writes, args=(path, who)) for who in "xyz"]
    for one in writers:
        one.start()
    reader, seen = Journal(path), list[Event]()
    while any(one.is_alive() for one in writers):
        seen += reader.read_new()
    seen += reader.read_new()
    for who in "xyz":
        assert [e.at for e in seen if isinstance(e, CommandGiven) and e.by[0] == who] == list(range(200))


def test_events_survive_their_way_through_the_file(tmp_path: Path) -> None:
    path = create(tmp_path, planned(0, 0, 1, approvals=(1,), soak=2.5))
    append(path, BoardStarted(at=1.25, board="a", work=TaskKind.ROLLBACK, attempt=3))
    assert Journal(path).read_new()[1] == BoardStarted(at=1.25, board="a", work=TaskKind.ROLLBACK, attempt=3)
