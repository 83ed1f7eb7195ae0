"""The page of a rollout: one file that loads nothing, every board in it, and no name that becomes markup."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bpudeploy.fleet.events import BoardEnded, BoardStarted, Event, RolloutPlanned
from bpudeploy.fleet.history import format_round_duration, rollout_history
from bpudeploy.fleet.page import policy_in_words, write_rollout
from bpudeploy.fleet.scale import Scale
from bpudeploy.fleet.timeline import timeline
from bpudeploy.results.drawing import format_duration
from bpudeploy.spec.fleet import OnFailure, Reserved, RolloutSpec, Wave
from tests.fleet import journals
from tests.pages import tags_of, words_of


@pytest.fixture
def page(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return the page of the journal that the test is parametrized with."""
    return page_of(journals.EVERY[request.param](), tmp_path)


def page_of(events: list[Event], folder: Path) -> str:
    write_rollout(events, folder / "rollout.html")
    return (folder / "rollout.html").read_text()


every = pytest.mark.parametrize("page", journals.EVERY, indirect=True)


@every
def test_the_page_is_one_file_that_loads_nothing(page: str) -> None:
    assert page.count("<svg") == 1 and page.count("<style>") == 2
    assert not re.search(r"<(script|link|img|iframe|image|object|a)\b|@import|\bsrc=|href=|url\(|\son\w+=", page)
    assert "NaN" not in page and "None" not in words_of(page)


@pytest.mark.parametrize("name", journals.EVERY)
def test_it_is_the_same_each_time_and_has_every_board_and_release(name: str, tmp_path: Path) -> None:
    events = journals.EVERY[name]()
    page = page_of(events, tmp_path)
    assert page == page_of(journals.EVERY[name](), tmp_path)
    planned = events[0]
    assert isinstance(planned, RolloutPlanned)
    tables = page[page.index("<h2>Wave 1</h2>") :]
    for plan in planned.places:
        assert tables.count(f'<td class="board">{plan.board}</td>') == 1
        assert plan.release is None or plan.release in page


@pytest.mark.parametrize("name", journals.EVERY)
def test_the_timeline_has_a_row_for_every_board_of_a_wave_that_began(name: str) -> None:
    history = rollout_history(journals.EVERY[name]())
    drawn = ET.fromstring(timeline(history))
    space = "{http://www.w3.org/2000/svg}"
    labels = [t.text or (t[-1].tail if len(t) else "") for t in drawn.iter(f"{space}text") if t.get("x") == "0"]
    rows = [b.board.plan.board for wave, boards in history.waves.items() if history.began(wave) for b in boards]
    heads = [f"wave {wave + 1}" for wave in history.waves] + ["in no wave"] * bool(history.skipped)
    assert sorted(label for label in labels if label and "failed" not in label) == sorted(rows + heads)
    high = float(drawn.attrib["viewBox"].split()[3])
    for rect in drawn.iter(f"{space}rect"):
        x, y, w = (float(rect.attrib[key]) for key in ("x", "y", "width"))
        assert w >= 0 and x >= 0 and x + w <= 1080 and 0 <= y <= high


def test_why_by_whom_and_by_which_policy(tmp_path: Path) -> None:
    words = words_of(page_of(journals.hundred(2), tmp_path))
    for part in (
        "Rollout of deit-tiny",
        "planned by ada@build-7 at 2026-11-28 20:00:00",
        "1 board failed in wave 3, and none may: s100-lab3-029",
        "gate max_drop 1 point: top-1 lost 6.2 (4.1 to 8.3)",
        "28 rolled back",
        "55 not begun",
        "grace has it until 23:00 UTC: burn-in",
        "Wave 1: 4 boards; then 5 min of soak.",
        "It stops at the first failure; then the wave that failed is rolled back.",
        "loses at most 1 points of top-1 against float",
        "nothing is built for rdk-x3-md",
    ):
        assert part in words, part


def test_pauses_approvals_and_takeovers_name_who_gave_the_command(tmp_path: Path) -> None:
    resumed = words_of(page_of(journals.resumed(), tmp_path))
    assert "paused grace@desk" in resumed and "resumed grace@desk" in resumed
    assert "another controller took over ada@build-7 pid 4822" in resumed
    approved = page_of(journals.approved(), tmp_path)
    assert "approved, wave 3 grace@desk" in words_of(approved)
    assert "Wave 3: 3 boards, after an approval." in words_of(approved)
    assert {"1 h", "11 h 20 min"} <= set(re.findall(r'font-style="italic"[^>]*>([^<]*)<', approved))


def test_what_a_board_serves_is_shown_if_it_is_not_the_planned_release(tmp_path: Path) -> None:
    page = page_of(journals.troubled(), tmp_path)
    rows = {m[1]: m[0] for m in re.finditer(r'<tr><td class="board">([^<]*)</td>.*?</tr>', page, re.DOTALL)}
    assert "serves unknown" in words_of("<body>" + rows["x5-lab3-002"]), "unreachable"
    assert "serves" not in rows["x5-lab2-001"]


@cache
def harmless(tmp: Path) -> list[tuple[str, ...]]:
    return tags_of(page_of(journals.hostile("x", "x", "x"), tmp))


HOSTILE = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=30),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "</title></svg><a href=javascript:alert(1)>x",
            "{{ 7 * 7 }}{% include 'page.css' %}",
            "</style><style>*{display:none}",
            "-->]]>&amp;&#x3c;b&#x3e;",
        ]
    ),
)


@settings(max_examples=120, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_name_and_no_detail_becomes_markup(
    tmp_path_factory: pytest.TempPathFactory, name: str, detail: str, by: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    page = page_of(journals.hostile(name, detail, by), folder)
    assert tags_of(page) == harmless(folder)
    assert "49{" not in page


def test_a_clock_that_was_set_back_makes_no_time_negative(tmp_path: Path) -> None:
    events = journals.six()
    middle = len(events) // 2
    back = [*events[:middle], *(e.model_copy(update={"at": e.at - 3600}) for e in events[middle:])]
    history = rollout_history(back)
    assert all(s.seconds(history.last) >= 0 for b in history.boards for s in b.attempts)
    assert history.seconds >= 0 and 'width="-' not in page_of(back, tmp_path)


@pytest.mark.parametrize("name", ["six", "resumed", "troubled", "approved"])
def test_every_beginning_of_a_journal_can_be_drawn(name: str, tmp_path: Path) -> None:
    events = journals.EVERY[name]()
    for count in range(1, len(events), 2):
        page_of(events[:count], tmp_path)
    with pytest.raises(ValueError, match="first event"):
        write_rollout(events[1:], tmp_path / "no.html")


def test_a_lost_attempt_counts_only_until_its_last_step() -> None:
    history = rollout_history(journals.resumed())
    lost = [b for b in history.boards if any(s.lost for s in b.attempts)]
    assert lost and all(b.label == "done" and b.updates == 2 for b in lost)
    assert all(b.seconds(history.last) < 25 for b in lost), "not the time until somebody took it up again"


def test_the_work_of_every_board_is_found_in_the_events() -> None:
    events = journals.hundred(2)
    history = rollout_history(events)
    assert sum(len(b.attempts) for b in history.boards) == sum(isinstance(e, BoardStarted) for e in events)
    assert history.bytes_sent == sum(e.bytes_sent for e in events if isinstance(e, BoardEnded))


def test_a_policy_in_words() -> None:
    planned = journals.six()[0]
    assert isinstance(planned, RolloutPlanned)
    policy = RolloutSpec(
        waves=(Wave(select="group=canary"), Wave(count=1), Wave(percent=12.5)),
        max_unavailable=1,
        max_failures=2,
        on_failure=OnFailure.ROLLBACK_ALL,
        reserved=Reserved.WAIT,
        windows=("mon-fri 20:00-06:00 Europe/Berlin", "sat"),
    )
    assert policy_in_words(planned.model_copy(update={"policy": policy})) == [
        "Wave 1: 1 board.",
        "Wave 2: 5 boards.",
        "Waves of the policy: group=canary; 1 board; 12.5 % of the boards; the rest.",
        "At most 1 board out of service at once. It stops if more than 2 boards fail; "
        "then every board that it updated is rolled back.",
        "A board passes if it gives the same answers to the golden images as the host.",
        "A board fails after 15 min, and is unreachable after 2 attempts.",
        "It waits for a reserved board, 1 h at most.",
        "Boards are updated only in: mon-fri 20:00-06:00 Europe/Berlin; sat.",
    ]


SPANS = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 500)).map(lambda p: (p[0], p[0] + p[1])), max_size=30)


@settings(max_examples=200, deadline=None)
@given(SPANS, st.floats(0.01, 2e5), st.lists(st.floats(0, 2e5), min_size=2, max_size=8))
@example(busy=[(0.0, 2.2e-313)], end=2.0, times=[0.0, 0.0])
def test_the_scale_never_falls_stays_inside_and_its_ticks_have_room(
    busy: list[tuple[float, float]], end: float, times: list[float]
) -> None:
    scale = Scale.of(busy, 0.0, end, 100.0, 900.0)
    xs = [scale.x(at) for at in sorted(times)]
    assert xs == sorted(xs) and all(100 - 1e-6 <= x <= 900 + 1e-6 for x in xs)
    assert scale.x(0.0) == pytest.approx(100) and scale.x(end) == pytest.approx(900)
    assert [p.x1 for p in scale.segments[:-1]] == [p.x0 for p in scale.segments[1:]]
    ticks = [(scale.x(at), words) for at, words in scale.ticks()]
    assert all(b[0] - a[0] >= 2.6 * (len(a[1]) + len(b[1])) for a, b in pairwise(ticks))
    assert len(ticks) <= 60


def test_a_quiet_night_takes_little_room() -> None:
    scale = Scale.of([(0, 60), (40_000, 40_060)], 0, 40_060, 0, 800)
    (gap,) = scale.gaps
    assert (gap.begin, gap.end) == (60, 40_000) and gap.x1 - gap.x0 < 50
    assert scale.x(60) == pytest.approx(377)


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0.04, "0.0 s", "0 s"),
        (59.94, "59.9 s", "59.9 s"),
        (59.96, "1 min 00 s", "1 min"),
        (900, "15 min 00 s", "15 min"),
        (3725, "1 h 02 min", "1 h 02 min"),
        (86400, "1 d 00 h", "1 d"),
    ],
)
def test_durations(seconds: float, long: str, short: str) -> None:
    assert (format_duration(seconds), format_round_duration(seconds)) == (long, short)
