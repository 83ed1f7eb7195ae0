"""A night as JUnit: what every reader takes, its verdicts, and nothing in it that a name could break it with."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.nightly.junit import to_junit
from bpudeploy.nightly.night import Night
from tests.fleet.test_junit import schema
from tests.nightly import made

ANYTHING = st.text(st.characters(codec="utf-8"), max_size=30)


def cases(night: Night) -> dict[tuple[str, str], tuple[str, str]]:
    """Return each case's verdict and message, by its suite and name."""
    found = {}
    for suite in ET.fromstring(to_junit(night).encode()):
        for case in suite.iter("testcase"):
            verdict = next(iter(case), None)
            told = ("", "") if verdict is None else (verdict.tag, verdict.attrib["message"])
            found[suite.attrib["name"], case.attrib["name"]] = told
    return found


@pytest.mark.parametrize("name", made.EVERY)
def test_every_night_is_valid_and_counts_what_is_in_it(name: str) -> None:
    night = made.EVERY[name]()
    report = to_junit(night)
    schema().validate(report)
    for suite in ET.fromstring(report.encode()):
        found = suite.findall("testcase")
        counted = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
        of = {verdict: len(suite.findall(f"testcase/{verdict}")) for verdict in ("failure", "error", "skipped")}
        assert counted == {
            "tests": len(found), "failures": of["failure"], "errors": of["error"], "skipped": of["skipped"]
        }  # fmt: skip
    assert len(cases(night)) == sum(1 + len(job.findings) for job in night.jobs), "every case has a name of its own"


def test_a_regression_fails_a_build_or_board_that_failed_is_an_error_and_the_rest_is_skipped() -> None:
    told = {key: verdict for key, (verdict, _) in cases(made.troubled()).items()}
    assert told == {
        ("deit-tiny@rdk-x5", "measured"): "",
        ("deit-tiny@rdk-x5", "p50 latency against its baseline"): "failure",
        ("deit-tiny@rdk-x5", "p50 latency against its history"): "failure",
        ("deit-tiny@rdk-x5", "top-1 against its baseline"): "failure",
        ("deit-tiny@rdk-x5", "size of the binary against its baseline"): "",
        ("resnet18@rdk-x5", "measured"): "",
        ("resnet18@rdk-x5", "p50 latency against its baseline"): "skipped",
        ("resnet18@rdk-x5", "top-1 against its baseline"): "",
        ("swin-tiny@rdk-x5", "measured"): "error",
        ("vit-base@rdk-s100", "measured"): "error",
        ("visformer@rdk-x5", "measured"): "skipped",
        ("mobilevit@rdk-x5", "measured"): "",
    }
    assert {verdict for verdict, _ in cases(made.cut_off()).values()} == {"skipped"}


def test_a_failure_has_its_change_with_interval_since_when_why_and_how_to_see_it() -> None:
    report = to_junit(made.troubled())
    told = cases(made.troubled())
    _, message = told["deit-tiny@rdk-x5", "p50 latency against its baseline"]
    assert message == "+5.20 % (+4.30 to +6.10): 5.000 ms → 5.260 ms"
    failure = next(ET.fromstring(report.encode()).iter("failure"))
    assert failure.text is not None
    for part in (
        "how: interleaved with the pinned release on x5-lab1-003, 20 pairs of rounds",
        "threshold 3 %",
        "since: 2026-11-23T22:00:00+00:00, last good: 2026-11-22T22:00:00+00:00",
        "changed: quantize: options.method: kl -> max",
        "reproduce: bpudeploy bench 9b1f00aa12cd --against 3f2a91c07d4e --board x5-lab1-003",
    ):
        assert part in failure.text
    assert told["swin-tiny@rdk-x5", "measured"][1].startswith("build failed: hb_mapper: node 'Roll_3'")
    assert 'name="in quarantine: x5-lab2-001" value="excluded manually: its fan is broken"' in report


def test_what_no_board_gave_is_said_to_be_simulated() -> None:
    told = cases(made.calm())
    report = to_junit(made.calm())
    assert 'name="top1" value="79.50 %, simulated"' in report
    assert 'name="p50" value="5.000 ms (4.960 to 5.050)"' in report
    assert told["swin-tiny@rdk-x5", "p50 latency against its baseline"] == (
        "skipped",
        "cannot tell: 2 sessions of the pinned release on x5-lab1-003; at least 5 are required",
    )


@settings(max_examples=60, deadline=None)
@given(ANYTHING, ANYTHING)
def test_no_name_and_no_words_break_it(name: str, words: str) -> None:
    report = to_junit(made.hostile(f"r@{name}", words))
    schema().validate(report)
    assert len(ET.fromstring(report.encode()).findall("testsuite/testcase")) == 4
