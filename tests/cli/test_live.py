"""Progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from bpudeploy.cli.output import Live, table
from bpudeploy.events import Note, Progress, StepFinished, StepStarted

UPLOAD = [Progress("push", mb * 10**6, 100 * 10**6, "bytes") for mb in (40, 50, 60)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(out: io.StringIO, *events: StepStarted | Note | Progress | StepFinished) -> str:
    with Live(out) as live:
        for event in events:
            live.draw(event)
    return out.getvalue()


def test_a_terminal_shows_how_far_an_upload_is() -> None:
    screen = drawn(Terminal(), *UPLOAD)
    assert "push" in screen and "40%" in screen and "40.0M/100M" in screen and "B/s" in screen


def test_a_terminal_names_the_running_step_and_counts_in_its_unit() -> None:
    screen = drawn(Terminal(), StepStarted("quantize"), Progress("evaluate", 3, 8, "images"))
    assert "quantize ..." in screen and "3/8" in screen and "images" in screen


def test_a_file_gets_whole_lines_only() -> None:
    done = StepFinished("push", "miss", ("a" * 64,), 1.5, 12.0)
    text = drawn(io.StringIO(), StepStarted("push"), *UPLOAD, Note("push", "sent"), done)
    assert text == "  push                   sent\n  push                      1.5 s    12 MB  aaaaaaaaaaaa\n"


def test_a_table_aligns_and_wraps_its_last_column() -> None:
    rows = [("a", 1, "one two three four"), ("bb", 22, "")]
    assert table(("name", ">n", "text"), rows) == [
        "  name   n  text",
        "  a      1  one two three four",
        "  bb    22",
    ]
    wrapped = table(("name", ">n", "text"), rows, width=24)
    assert wrapped[1:3] == ["  a      1  one two", "            three four"]
