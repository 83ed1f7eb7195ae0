"""The notebook of a benchmark: what was written is there after any cut, and only for the same benchmark."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bpudeploy.effects.session_log import open_session_log
from bpudeploy.errors import UsageError
from bpudeploy.results.session import Answered, Entry
from tests.results.test_session import began, setting, timed


class Cut(Exception):
    """The process ended here."""


def write(path: Path, *entries: Entry, session: str = "first", contenders: int = 1) -> tuple[str, list[Entry]]:
    """Open the notebook, write, and be cut; return the session's name and what was in it before."""
    mine = setting(contenders).model_copy(update={"session": session})
    before: list[Entry] = []
    name = ""
    with pytest.raises(Cut), open_session_log(path, mine) as book:
        before, name = list(book.entries), book.setting.session
        for entry in entries:
            book.write(entry)
        raise Cut
    return name, before


def test_a_cut_session_is_gone_on_with_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "n.jsonl"
    told: list[Entry] = [began(), timed(0, 0), Answered(contender=0, first=0, top=((1, 2),))]
    assert write(path, *told) == ("first", [])
    assert write(path, timed(0, 1), session="second") == ("first", told)
    assert write(path, session="third") == ("first", [*told, timed(0, 1)])


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_line_that_was_cut_is_dropped_and_the_rest_kept(tmp_path: Path, left: int) -> None:
    path = tmp_path / "n.jsonl"
    write(path, began(), timed(0, 0))
    whole = path.read_bytes()
    path.write_bytes(whole + timed(0, 1).model_dump_json().encode()[:left])
    assert write(path, timed(0, 1), session="second") == ("first", [began(), timed(0, 0)])
    assert write(path)[1] == [began(), timed(0, 0), timed(0, 1)]


def test_another_benchmark_an_old_one_and_rubbish_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    write(path, began())
    assert write(path, contenders=2, session="other") == ("other", [])
    write(path, timed(0, 0), contenders=2)
    os.utime(path, (time.time() - 7 * 3600,) * 2)
    assert write(path, contenders=2, session="new") == ("new", [])
    path.write_bytes(os.urandom(1000))
    assert write(path, session="newer") == ("newer", [])


def test_one_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with open_session_log(tmp_path / "n.jsonl", setting()) as book:
        book.write(began())
    assert not list(tmp_path.iterdir())


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with open_session_log(tmp_path / "n.jsonl", setting()) as book:
        book.write(began())
        with pytest.raises(UsageError, match="is already running"), open_session_log(tmp_path / "n.jsonl", setting()):
            pass
        assert (tmp_path / "n.jsonl").read_text().count("\n") == 2
