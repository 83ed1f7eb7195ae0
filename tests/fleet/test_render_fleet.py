"""What `fleet` prints: plans, status, and the picture of a rollout on a terminal of any height."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.cli.fleet_lines import board_line, frame, printable, wave_lines
from bpudeploy.cli.fleet_live import FleetLive
from bpudeploy.cli.output import Output
from bpudeploy.cli.verbs.fleet import rollouts_text, show_inventory, show_plan, status_text
from bpudeploy.fleet.events import EVENT, Event, WaveEnded
from bpudeploy.fleet.launch import BoardPreview
from bpudeploy.fleet.view import IN_PROGRESS, BoardState, replay
from bpudeploy.spec.fleet import Fleet, RolloutSpec
from tests.fleet import journals

OLD, NEW = "a" * 64, "b" * 64


def row(board: str, target: str, wave: int | None, serves: str | None, size: int | None, note: str) -> BoardPreview:
    gets = {"release": NEW} if wave is not None else {"release": None, "skipped": note}
    return BoardPreview(journals.board_plan(0, (wave or 1) - 1, board=board, target=target, **gets), serves, size, note)


ROWS = (
    row("x5-001", "rdk-x5", 1, OLD, 24_100_000, ""),
    row("x5-002", "rdk-x5", 2, NEW, 0, "serves it already"),
    row("x3-003", "rdk-x3", None, OLD, None, "nothing is built for rdk-x3"),
    row("x5-004", "rdk-x5", 2, None, None, "no answer just now"),
    row("x5-005", "rdk-x5", 2, "", 24_100_000, ""),
)
TEXT, JSON = Output(as_json=False), Output(as_json=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_plan_says_who_gets_what_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(ROWS, TEXT)
    assert capsys.readouterr().out == (
        "  wave  board   target  serves        gets           to send  note\n"
        "  1     x5-001  rdk-x5  aaaaaaaaaaaa  bbbbbbbbbbbb  24.10 MB\n"
        "  2     x5-002  rdk-x5  bbbbbbbbbbbb  bbbbbbbbbbbb   0.00 MB  serves it already\n"
        "  2     x5-004  rdk-x5  unknown       bbbbbbbbbbbb   unknown  no answer just now\n"
        "  2     x5-005  rdk-x5  none          bbbbbbbbbbbb  24.10 MB\n"
        "  -     x3-003  rdk-x3  aaaaaaaaaaaa  nothing                 nothing is built for rdk-x3\n"
        "boards: 4 in 2 waves, 48.20 MB to send, unknown for 1; already up to date: 1; skipped: 1\n"
    )


def test_the_plan_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(ROWS, JSON)
    found = json.loads(capsys.readouterr().out)
    assert found["boards"][2]["note"] == "nothing is built for rdk-x3"
    assert (found["updated"], found["skipped"], found["bytes_to_send"], found["bytes_not_known"]) == (4, 1, 48200000, 1)


def test_a_plan_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan((), TEXT)
    assert capsys.readouterr().out == "no board of the fleet is selected\n"


@pytest.mark.parametrize("name", journals.EVERY)
def test_the_status_has_every_board_every_wave_and_the_whole(name: str) -> None:
    events = journals.EVERY[name]()
    known = replay(events)
    lines = list(status_text(events))
    assert len(lines) == len(known.boards) + known.waves + 1
    assert all(any(line.startswith(f"  {board} ") for line in lines) for board in known.boards)


def test_the_status_of_one_that_ended() -> None:
    out = "\n".join(status_text(journals.troubled()))
    assert re.search(r"^  s100-lab2-004  failed +disk full: 12 MB free, 24 MB needed$", out, re.MULTILINE)
    assert "wave 1   [######################xxxx????]   5 of 7 done, 1 failed, 1 unreachable, ended" in out
    assert out.endswith(
        "incomplete after 3 min 13 s, 151.40 MB sent: 1 board failed, 1 is unreachable: bpudeploy fleet reconcile"
    )


def test_a_hundred_boards_on_forty_lines_with_those_that_need_attention_first() -> None:
    events = journals.running()
    known = replay(events)
    lines = [text for text, _ in frame(known, events[-1].at, 40)]
    assert len(lines) == 40
    assert [line.split()[:2] for line in lines[1:5]] == [["wave", str(i)] for i in (1, 2, 3, 4)]
    states = [known.boards[line.split()[0]].state for line in lines[5:-1]]
    working = sum(b.state in IN_PROGRESS for b in known.boards.values())
    assert working == 10 and all(state in IN_PROGRESS for state in states[:10])
    assert states[10] is BoardState.UNREACHABLE
    assert lines[-1] == "  and 66 more: 1 skipped, 65 waiting"


HUNDRED = journals.hundred(2)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, len(HUNDRED)), st.integers(4, 120))
def test_a_frame_fits_and_counts_what_it_leaves_out(count: int, height: int) -> None:
    known = replay(HUNDRED[:count])
    lines = [text for text, _ in frame(known, HUNDRED[count - 1].at, height)]
    assert len(lines) <= height
    names = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in known.boards]
    left = [int(m[1]) for line in lines if (m := re.match(r"  and (\d+) more: ", line))]
    assert len(set(names)) == len(names) and len(names) + sum(left) == len(known.boards)
    working = [b for b in known.boards.values() if b.state in IN_PROGRESS]
    assert all(known.boards[name].state in IN_PROGRESS for name in names[: len(working)])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, len(HUNDRED)))
def test_a_bar_loses_no_board(count: int) -> None:
    known = replay(HUNDRED[:count])
    for wave, (text, _) in enumerate(wave_lines(known)):
        bar = text[text.index("[") + 1 : text.index("]")]
        boards = known.boards_of_wave(wave)
        assert len(bar) == 30
        assert ("x" in bar) == any(b.failed for b in boards)
        assert ("?" in bar) == any(b.state is BoardState.UNREACHABLE for b in boards)
        assert ("+" in bar) == any(b.state in IN_PROGRESS for b in boards)


def test_many_waves_leave_room_for_boards() -> None:
    plans = [journals.board_plan(i, i) for i in range(60)]
    story = journals.Story(plans, RolloutSpec())
    for wave in range(30):
        story.wave(wave)
    lines = [text for text, _ in frame(replay(story.events), story.now, 24)]
    assert [line.split()[1] for line in lines if line.startswith("wave")] == [str(i) for i in range(31, 39)]
    assert len(lines) == 24


def test_without_a_terminal_each_event_is_a_line() -> None:
    out = io.StringIO()
    with FleetLive(as_json=False, out=out) as live:
        for event in journals.troubled():
            live.draw(event)
    lines = out.getvalue().splitlines()
    assert lines[0] == "20:00:00Z  rollout 2026-11-28T20-00-00-deit-tiny: boards: 7, waves: 1"
    assert "20:00:20Z  s100-lab2-004  update failed, 13.2 s, 41.30 MB: disk full: 12 MB free, 24 MB needed" in lines
    assert "20:00:20Z  x5-lab3-002  update started, attempt 2" in lines
    assert not any("\x1b" in line or "connected" in line for line in lines)


def test_json_has_each_event_in_a_line() -> None:
    out = Terminal()
    events = journals.resumed()
    with FleetLive(as_json=True, out=out) as live:
        for event in events:
            live.draw(event)
    assert [EVENT.validate_json(line) for line in out.getvalue().splitlines()] == events


def drawn(events: list[Event], monkeypatch: pytest.MonkeyPatch, pause: float = 0.0) -> tuple[str, float]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    out, began = Terminal(), time.monotonic()
    with FleetLive(as_json=False, out=out) as live:
        for event in events:
            live.draw(event)
            time.sleep(pause)
        time.sleep(0.3)
    return out.getvalue(), time.monotonic() - began


def test_a_terminal_is_not_drawn_anew_for_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    events = journals.running()
    screen, seconds = drawn(events, monkeypatch, pause=0.01)
    assert len(events) > 100
    pictures = len(re.findall(r"deit-tiny: (?:running|soaking)", screen))
    assert 3 <= pictures <= 10 * seconds + 2
    assert "\x1b[2K" in screen, "the picture before is wiped"


def test_no_picture_is_wider_or_higher_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, _ = drawn(journals.hundred(2)[:-1], monkeypatch)
    for picture in re.split(r"\x1b\[2K", screen.split("\x1b[?25h")[0]):
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", picture).split("\n")
        assert len(lines) <= 40 and all(len(line.rstrip("\r")) <= 120 for line in lines)


def test_after_an_error_the_boards_that_need_attention_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    with pytest.raises(KeyboardInterrupt), FleetLive(as_json=False, out=out) as live:
        for event in journals.hundred(2):
            live.draw(event)
        raise KeyboardInterrupt
    left = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue().split("\x1b[?25h")[-1])
    assert "s100-lab3-029  failed" in left and "x5-lab1-027    reserved" in left
    assert "x5-lab1-000" not in left
    assert left.rstrip().endswith("1 board failed in wave 3, and none may: s100-lab3-029")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with FleetLive(as_json=False, out=out) as live:
        for event in journals.six():
            live.draw(event)
    assert "\x1b" not in out.getvalue() and "wave 2 ended" in out.getvalue()


EVIL = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e\nsecond [bold red]x[/]"


def test_output_of_a_board_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = journals.hostile("b", EVIL, EVIL)
    TEXT.show(None, status_text(events))
    show_plan([row("b", "t", 1, OLD, 1, EVIL)], TEXT)
    plain = io.StringIO()
    with FleetLive(as_json=False, out=plain) as live:
        for event in events:
            live.draw(event)
    said = capsys.readouterr().out + plain.getvalue()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)
    screen, _ = drawn(events, monkeypatch)
    assert not re.search("\x1b\\[2J|\x1b\\]|\x07|\x9b|\u202e", screen)
    assert "[bold red]x[/]" in screen, "and it is no markup of rich's"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_what_is_printable_is_one_line_that_can_be_encoded(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


def test_a_board_that_waits_for_a_retry_shows_why() -> None:
    events = journals.troubled()
    known = replay(events[: next(i for i, e in enumerate(events) if isinstance(e, WaveEnded)) - 5])
    (text, tone) = board_line(known.boards["x5-lab2-001"], known, events[-1].at)
    assert re.sub(" +", " ", text) == " x5-lab2-001 waiting grace has it until 20:03 UTC"
    assert tone == ""


def test_a_warning_has_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    TEXT.warn("webhook https://h: not delivered: it answered 404", fix="look there")
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "warning: webhook https://h: not delivered: it answered 404\n  fix: look there\n"


def test_the_inventory_and_the_list_of_rollouts(capsys: pytest.CaptureFixture[str]) -> None:
    board = {"address": "sunrise@10.0.0.2", "target": "rdk-x5", "groups": ("canary",), "labels": {"chip": "bayes-e"}}
    fleet = Fleet.model_validate({"boards": {"a": board, "bb": board | {"jump": "gate"}}})
    show_inventory(fleet, TEXT)
    assert capsys.readouterr().out == (
        "  board  target  address                    labels\n"
        "  a      rdk-x5  sunrise@10.0.0.2           canary,chip=bayes-e\n"
        "  bb     rdk-x5  sunrise@10.0.0.2 via gate  canary,chip=bayes-e\n"
        "2 boards, 0 waves\n"
    )
    show_inventory(fleet, JSON)
    assert Fleet.model_validate_json(capsys.readouterr().out) == fleet
    lines = list(rollouts_text([("one", journals.six()), ("two", journals.hundred())]))
    assert lines[0].split()[:5] == ["one", "complete", "6", "of", "6"]
    assert "there are no rollouts" in next(rollouts_text([]))
