"""A night as Markdown, drawn by GitHub's own library: its tables hold, and no name becomes markup or a mention."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.nightly.markdown import MAX_CHARACTERS, to_markdown
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, Night
from tests.nightly import made

OF_GITHUB = "ul|ol|li|p|h2|h3|table|thead|tbody|tr|th|td|code|pre|details|summary|br"


class Page(HTMLParser):
    """The tags of a page, the text that is in no code, and the tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.bare = ""
        self.tables: list[list[list[str]]] = []
        self._code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._code += tag in ("code", "pre")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.bare += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def drawn(night: Night) -> Page:
    html = cmarkgfm.github_flavored_markdown_to_html(to_markdown(night), Options.CMARK_OPT_UNSAFE)
    page = Page(html)
    page.tables = [[[cell.strip() for cell in row] for row in table] for table in page.tables]
    return page


@pytest.mark.parametrize("name", made.EVERY)
def test_every_night_is_drawn_with_whole_tables(name: str) -> None:
    text = to_markdown(made.EVERY[name]())
    assert len(text) < MAX_CHARACTERS and text.startswith("## ") and text.count("<details>") == 1
    page = drawn(made.EVERY[name]())
    assert page.tags[:2] == ["h2", "p"], "the verdict is first"
    assert set(page.tags) <= set(OF_GITHUB.split("|"))
    for table in page.tables:
        assert {len(row) for row in table} == {len(table[0])}


def test_the_verdict_is_first_and_each_regression_has_its_change_since_and_cause() -> None:
    text = to_markdown(made.troubled())
    assert text.splitlines()[0] == "## ❌ 3 regressions in 1 of 6 jobs"
    assert "from 2026-11-27 22:00 to 2026-11-28 01:12 UTC, commit `9b1f00aa12cd`; exit code 4." in text
    first, second, third = drawn(made.troubled()).tables[0][1:]
    assert first == [
        "deit-tiny@rdk-x5",
        "p50 latency against its baseline",
        "5.000 ms → 5.260 ms",
        "+5.20 % (+4.30 to +6.10)",
        "2026-11-23 22:00last good 2026-11-22 22:00",
        "quantize: options.method: kl -> maxonnx on the host: 1.18.0 -> 1.19.0"
        "recipe commit: 3f2a91c07d4e -> 9b1f00aa12cd",
    ]
    assert second[1] == "p50 latency against its history" and third[3] == "-1.30 points (-2.20 to -0.40)"


def test_what_is_missing_is_folded_with_its_reasons_and_commands_can_be_copied() -> None:
    text = to_markdown(made.troubled())
    folded = text[text.index("<details>") :]
    page = drawn(made.troubled())
    assert "```sh\nbpudeploy bench 9b1f00aa12cd --against 3f2a91c07d4e --board x5-lab1-003\nbpudeploy bisect" in folded
    words = unescape(page.bare)
    for part in (
        "build failed: hb_mapper: node 'Roll_3' is not supported (see it)",
        "no board: all 2 boards are off",
        "left out: it takes 50 min, but only 35 min were left",
        "is in quarantine: excluded manually: its fan is broken",
        "failed at 2026-11-27 22:31 UTC: connect: no route to host",
        "cannot tell: 2 sessions of the pinned release on x5-lab1-003; at least 5 are required",
        "confirmed by a second measurement",
    ):
        assert part in words, part


@pytest.mark.parametrize(
    ("night", "first"),
    [
        (made.calm(), "## ⚠️ no regression; 3 of 4 jobs judged"),
        (made.cut_off(), "## ⚠️ running or interrupted; no regression so far"),
        (made.night(), "## ⚠️ nothing was measured"),
        (made.night([made.job()]), "## ⚠️ nothing to compare with yet for 1 measured job"),
        (made.night([made.job(findings=[made.finding()])]), "## ✅ no regression; 1 of 1 job judged"),
    ],
)
def test_other_verdicts(night: Night, first: str) -> None:
    assert to_markdown(night).splitlines()[0] == first


def test_a_figure_has_its_spread_and_says_when_it_is_simulated() -> None:
    jobs = drawn(made.calm()).tables[0]
    assert jobs[1][4] == "5.000 ms (4.960 to 5.050)"
    assert jobs[2][6] == "79.50 %, simulated" and jobs[2][4] == ""


def test_a_night_with_too_much_to_say_is_cut_and_says_so() -> None:
    long = "w" * 5000
    worse = [made.finding(metric, FindingOutcome.REGRESSION, changed=(long,) * 9, how=long) for metric in Metric]
    night = made.night([made.job(f"m{n}-{long}@x5", worse, why=long) for n in range(200)])
    text = to_markdown(night)
    assert 30_000 < len(text.encode()) < MAX_CHARACTERS
    assert len(re.findall(r"\d+ of 1200 regressions are omitted here", text)) == 2
    assert text.rstrip().endswith("</details>")
    assert drawn(night).tags.count("table") == 2


HOSTILE = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    st.text("`|\\<>&*_[]()!#@-+=~ \n\r\tab1.:/", min_size=1, max_size=24),
    st.sampled_from(
        [
            "</code></details><script>alert(1)</script>",
            "x\\| y \\",
            "`` ` ``` a",
            "@everyone see #12 https://evil.example www.evil.example",
            "![x](http://evil.example/a.png)",
            "\n\n# heading\n- list\n| a |\n|---|",
            "&lt;b&gt; &#x3c;i&#62;",
            "~~~\n***",
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(HOSTILE, HOSTILE)
def test_no_name_and_no_words_become_markup_and_nobody_is_mentioned(name: str, words: str) -> None:
    harmless = drawn(made.hostile("r@x", "some words"))
    page = drawn(made.hostile(f"r@{name}", f"w {words}"))
    assert page.tags == harmless.tags
    assert not re.search(r"@\w", page.bare)
    assert [len(row) for table in page.tables for row in table] == [
        len(row) for table in harmless.tables for row in table
    ]


def test_no_command_ends_its_block() -> None:
    commands = ("````", "bpudeploy bench `x`", "# not a heading")
    page = drawn(made.night([made.job(findings=[made.finding(outcome=FindingOutcome.REGRESSION, reproduce=commands)])]))
    assert page.tags.count("pre") == 1
