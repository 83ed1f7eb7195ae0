"""A rollout as JUnit: what every reader takes, and nothing in it that a board could break it with."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.fleet.events import BoardEnded
from bpudeploy.fleet.junit import to_junit
from tests.fleet import journals

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)


@cache
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))


def cases(report: str) -> dict[str, tuple[str, str]]:
    """Return each board's verdict and its message."""
    found = {}
    for case in ET.fromstring(report.encode()).iter("testcase"):
        verdict = next(iter(case), None)
        found[case.attrib["name"]] = ("", "") if verdict is None else (verdict.tag, verdict.attrib["message"])
    return found


@pytest.mark.parametrize("name", journals.EVERY)
def test_every_journal_is_valid_and_has_each_board_once(name: str) -> None:
    events = journals.EVERY[name]()
    report = to_junit(events)
    schema().validate(report)
    names = re.findall(r'<testcase name="([^"]*)"', report)
    planned = events[0]
    assert planned.event == "planned" and sorted(names) == sorted(p.board for p in planned.places)


@pytest.mark.parametrize("name", journals.EVERY)
def test_every_suite_counts_what_is_in_it(name: str) -> None:
    for suite in ET.fromstring(to_junit(journals.EVERY[name]()).encode()):
        found = suite.findall("testcase")
        counted = {tag: sum(c.find(tag) is not None for c in found) for tag in ("failure", "error", "skipped")}
        said = suite.attrib
        assert (said["tests"], said["failures"]) == (str(len(found)), str(counted["failure"]))
        assert (said["errors"], said["skipped"]) == (str(counted["error"]), str(counted["skipped"]))
        assert float(said["time"]) == pytest.approx(sum(float(c.attrib["time"]) for c in found), abs=0.1)


def test_failed_is_a_failure_unreachable_an_error_and_the_rest_is_skipped() -> None:
    found = cases(to_junit(journals.troubled()))
    assert found["x5-lab3-002"] == ("error", "unreachable: no route to host")
    assert found["s100-lab2-004"] == ("failure", "failed: disk full: 12 MB free, 24 MB needed")
    assert found["x5-lab2-007"] == ("skipped", "skipped: nothing is built for rdk-x3")
    assert found["x5-lab2-001"] == ("", ""), "it was reserved, waited for, and updated"


def test_a_board_rolled_back_without_failing_is_not_a_failure() -> None:
    found = cases(to_junit(journals.hundred(2)))
    assert found["x5-lab1-015"] == ("skipped", "rolled back")
    assert found["s100-lab3-044"] == ("skipped", "not begun")
    assert [name for name, (verdict, _) in found.items() if verdict == "failure"] == ["s100-lab3-029"]


def test_what_failed_and_then_went_back_is_a_failure_that_says_why() -> None:
    events = journals.hundred(2)
    failed = next(e.board for e in events if isinstance(e, BoardEnded) and e.ending == "failed")
    story = journals.Story([p for p in events[0].places if p.board == failed], events[0].policy)  # type: ignore[union-attr]
    story.now = events[-2].at + 1
    story.events = []
    story.back([failed])
    verdict, message = cases(to_junit([*events[:-1], *story.events, events[-1]]))[failed]
    assert verdict == "failure"
    assert message == "failed, rolled back: gate max_drop 1 point: top-1 lost 6.2 (4.1 to 8.3)"


@settings(max_examples=150, deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_no_name_and_no_detail_breaks_the_xml(name: str, detail: str, by: str) -> None:
    report = to_junit(journals.hostile(name, detail, by))
    report.encode()
    schema().validate(report)
    (suite,) = ET.fromstring(report.encode())
    assert [case.find("failure") is not None for case in suite.findall("testcase")] == [False, True]


def test_a_character_that_xml_cannot_hold_is_replaced() -> None:
    message = cases(to_junit(journals.hostile("b", '\x00\x1b[31m \ud800 ]]> <&" ende\r\n2')))["b1"][1]
    assert message == 'failed: d\ufffd\ufffd[31m \ufffd ]]> <&" ende\n2'
