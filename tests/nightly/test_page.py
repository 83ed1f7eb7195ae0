"""The pages of the nights: the verdict first, whole without a network, and no name in them becomes markup."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.nightly.history import MetricHistory
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, Night, write_night
from bpudeploy.nightly.outputs import write_outputs
from bpudeploy.nightly.page import MAX_GRID_NIGHTS, MAX_PLOTS, MAX_REGRESSION_PLOTS, index_page, night_page
from bpudeploy.nightly.plots import MAX_POINTS, SMALL_PLOT_NIGHTS, regression_plot, small_plot
from tests.nightly import made
from tests.pages import tags_of, words_of

LOADS = re.compile(r"<(script|link|img|iframe|image|object)\b|@import|\bsrc=|url\((?!#)|\son\w+=")
"""What a page must not have: what it would load, or run. A drawing refers to its own parts by ``url(#...)``."""


def text_of(drawing: str | None) -> list[str]:
    assert drawing is not None
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawing)]


@pytest.mark.parametrize("name", made.EVERY)
def test_every_night_is_one_page_that_loads_nothing_and_is_the_same_each_time(name: str) -> None:
    histories = [made.history()]
    page = night_page(made.EVERY[name](), histories)
    assert not LOADS.search(page) and not re.search(r"<a\b", page)
    assert "None" not in words_of(page) and "nan" not in words_of(page)
    assert page == night_page(made.EVERY[name](), histories)


def test_the_verdict_is_first_and_a_regression_has_its_evidence() -> None:
    words = words_of(night_page(made.troubled(), [made.history(step=5, since=48)]))
    assert words.strip().startswith("nightly: 3 regressions in 1 of 6 jobs")
    for part in (
        "exit code 4",
        "3 of 6 jobs measured",
        "compared with its baseline : interleaved with the pinned release on x5-lab1-003, 20 pairs of rounds",
        "before → now 5.000 ms → 5.260 ms",
        "+5.20 % (+4.30 to +6.10) , 95 % interval; threshold 3 %",
        "2026-11-23 22:00 UTC; last good 2026-11-22 22:00",
        "quantize: options.method: kl -> max",
        "bpudeploy bench 9b1f00aa12cd --against 3f2a91c07d4e --board x5-lab1-003",
        "first bad night 2026-11-16",
    ):
        assert part in words, part


def test_what_was_not_measured_is_told_with_its_reason_and_so_are_boards_and_versions() -> None:
    words = words_of(night_page(made.troubled(), []))
    for part in (
        "build failed hb_mapper: node 'Roll_3' is not supported (see it)",
        "no board all 2 boards are off",
        "left out it takes 50 min, but only 35 min were left",
        "x5-lab2-001 excluded manually: its fan is broken",
        "2026-11-27 22:31 x5-lab1-002 deit-tiny@rdk-x5 connect: no route to host",
        "1 without a verdict",
        "2 sessions of the pinned release on x5-lab1-003; at least 5 are required",
        "noisy",
        "onnx 1.19.0",
        "No plot: no history yet",
    ):
        assert part in words, part
    assert "the night ended before the job" in words_of(night_page(made.cut_off(), []))
    assert "130" in words_of(night_page(made.cut_off(), []))


def test_what_no_board_gave_is_tagged() -> None:
    page = night_page(made.calm(), [made.history("vit-small@sim-x5", Metric.TOP1)])
    assert page.count('<span class="tag">simulated</span>') == 1
    assert "<figcaption>top-1 of vit-small@sim-x5, simulated</figcaption>" in page


def test_a_plot_has_boards_levels_baseline_first_bad_night_and_hollow_invalid_nights() -> None:
    history = made.history(step=6, since=48, boards=("0xa", "0xb"), invalid=(5,), missing=(20, 21))
    assert history.regression is not None
    (job, *_) = made.troubled().jobs
    plot = regression_plot(history, job)
    assert {"x5-0xa", "x5-0xb", "level", "pinned baseline", "tonight, 95 %"} <= {t.strip() for t in text_of(plot.svg)}
    assert "first bad night 2026-11-16" in text_of(plot.svg)
    assert plot.words.startswith("Grey: threshold, 3 % around the pinned baseline. Hollow: invalid")
    assert "Triangle at the edge" in plot.words, "25 % above all others"
    small = small_plot(made.history(), made.job(p50_ms=None))
    assert {"median", "x5-lab1-003"} <= {t.strip() for t in text_of(small.svg)} and "Hollow" not in small.words


def circles(plot_svg: str | None) -> int:
    """Return how many times a drawing uses a marker."""
    assert plot_svg is not None
    return plot_svg.count("<use ")


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (made.history(nights=1), ""),
        (made.history(nights=2, metric=Metric.TOP1), ""),
        (made.history(nights=30, noise=0), ""),
        (made.history(nights=5, invalid=range(5)), ""),
        (made.history(nights=400), f"{SMALL_PLOT_NIGHTS} of 400 nights: the latest."),
        (made.history(nights=40, boards="abcdefghijklmnop"), ""),
        (made.history(nights=60, metric=Metric.COMPILE_TIME, step=-30, since=20), ""),
    ],
)
def test_dark_corners_are_drawn(history: MetricHistory, words: str) -> None:
    plot = small_plot(history, made.job(p50_ms=None))
    assert plot.words.startswith(words or "Grey: ")
    assert circles(plot.svg) >= min(SMALL_PLOT_NIGHTS, len(history.series.points))
    regression_plot(
        history, made.job(findings=[made.finding(outcome=FindingOutcome.REGRESSION, before=None, since=None)])
    )


def test_an_old_regression_is_drawn_from_before_it_and_a_long_series_is_thinned() -> None:
    history = made.history(nights=1200, step=6, since=100)
    worse = made.finding(outcome=FindingOutcome.REGRESSION, since=made.at(100, 1200).isoformat())
    plot = regression_plot(history, made.job(findings=[worse]))
    assert f"first bad night {made.at(100, 1200):%Y-%m-%d}" in text_of(plot.svg)
    assert "of 1200 nights: all of the latest, some of the older ones." in plot.words
    assert circles(plot.svg) < MAX_POINTS + 40 and plot.svg is not None and len(plot.svg) < 120_000


def test_a_large_suite_takes_seconds_and_few_megabytes_and_says_what_is_not_drawn() -> None:
    night, histories = made.large(jobs=30, nights=400)
    began = time.process_time()
    page = night_page(night, histories)
    assert time.process_time() - began < 30  # 3 s on an idle machine
    assert len(page) < 3e6
    assert page.count("<svg") == MAX_PLOTS + 3
    assert f"The first {MAX_PLOTS} of 57; the rest are not plotted." in page
    assert "Not plotted: 120 other metrics without a regression." in page
    worse = [
        made.job(f"m{n}@x5", [made.finding(outcome=FindingOutcome.REGRESSION)]) for n in range(MAX_REGRESSION_PLOTS + 6)
    ]
    many = night_page(made.night(worse), [made.history(one.job, nights=3) for one in worse])
    assert many.count("<svg") == MAX_REGRESSION_PLOTS + 6 and many.count("too many regressions to plot them all") == 6


def nights(count: int) -> Iterable[tuple[str, Night]]:
    for number in range(count):
        night = (made.troubled, made.calm, made.cut_off)[number % 3]()
        began = made.BEGAN - timedelta(days=number)
        yield f"n{number}/report.html" if number != 1 else "", night.model_copy(update={"began": began.isoformat()})


def test_the_index_leads_to_each_night_the_latest_first_with_a_sign_for_each_job() -> None:
    page = index_page(list(nights(3))[::-1])
    assert re.findall(r'<a href="([^"]*)">([^<]*)</a>', page) == [
        ("n0/report.html", "2026-11-27 22:00"),
        ("n2/report.html", "2026-11-25 22:00"),
    ]
    assert not LOADS.search(page)
    words = words_of(page)
    assert "3 nights, newest first" in words
    assert "4, regression 3 regressions in 1 of 6 jobs 1 regression , 1 build failed , 1 no board" in words
    row = re.search(r'<tr><td class="name">deit-tiny@rdk-x5</td>(.*?)</tr>', page)
    assert row is not None and re.findall(r"<b[^>]*>(.)</b>", row[1]) == ["✗", "✓", "…"]
    assert "deit-tiny@rdk-x5, 2026-11-27 22:00: regression" in row[1], "not by colour alone"
    row = re.search(r'<tr><td class="name">mobilevit@rdk-x5</td>(.*?)</tr>', page)
    assert row is not None and row[1].count("<td></td>") == 2, "a night without the job"


def test_the_index_shows_each_suite_and_the_latest_nights_of_many() -> None:
    many = [*nights(MAX_GRID_NIGHTS + 5)]
    other = made.calm().model_copy(update={"suite": "other"})
    page = index_page([*many, ("o/report.html", other)])
    assert f"The latest {MAX_GRID_NIGHTS} of {MAX_GRID_NIGHTS + 5} nights." in page
    assert page.count('<table class="grid">') == 2 and "<h2>other</h2>" in page
    assert "No nights yet." in index_page([])


HOSTILE = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "</title></svg><a href=javascript:alert(1)>x",
            "{{ 7 * 7 }}{% include 'page.css' %}",
            "</style><style>*{display:none}",
            "-->]]>&amp;&#x3c;b&#x3e; $\\frac{1}{2}$",
        ]
    ),
)


@cache
def harmless() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return pages("x", "x")


def pages(name: str, words: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    night = made.hostile(name, words)
    drawn = night_page(night, [made.history(name, nights=3, boards=(words,))])
    listed = index_page([("x/report.html", night)])
    assert "49{" not in drawn + listed
    return tags_of(drawn[: drawn.index("<svg")]) + tags_of(drawn[drawn.rindex("</svg>") :]), tags_of(listed)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@settings(max_examples=30, deadline=None)
@given(HOSTILE, HOSTILE)
def test_no_name_and_no_words_become_markup(name: str, words: str) -> None:
    assert pages(name, words) == harmless()


def test_all_outputs_are_written_beside_the_record_and_the_index_leads_to_them(tmp_path: Path) -> None:
    earlier, cut, tonight = (tmp_path / name for name in ("2026-11-25-nightly", "2026-11-26-nightly", "2026 #1"))
    write_night(made.calm().model_copy(update={"began": "2026-11-25T22:00:00+00:00"}), earlier)
    write_night(made.cut_off().model_copy(update={"began": "2026-11-26T22:00:00+00:00"}), cut)
    (earlier / "report.html").write_text("of then")
    write_night(made.troubled(), tonight)
    (tmp_path / "latest").symlink_to(tonight.name)
    write_outputs(made.troubled(), [made.history()], tonight)
    assert sorted(path.name for path in tonight.iterdir()) == [
        "junit.xml", "metrics.prom", "night.json", "report.html", "summary.md"
    ]  # fmt: skip
    assert (earlier / "report.html").read_text() == "of then", "other nights stay as they were"
    links = re.findall(r'href="([^"]*)"', (tmp_path / "index.html").read_text())
    assert links == ["2026%20%231/report.html", "2026-11-25-nightly/report.html"]


def test_a_job_that_was_only_measured_says_so() -> None:
    words = words_of(night_page(made.night([made.job()]), []))
    assert "nothing to compare with yet for 1 measured job" in words and "○ not judged" in words
