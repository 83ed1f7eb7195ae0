"""A rollout as a JUnit report: a test suite a wave, a test case a board."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from bpudeploy.fleet.chronicle import Chronicle, Told, chronicle, utc
from bpudeploy.fleet.events import Event
from bpudeploy.fleet.view import State

_NOT_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VERDICTS = {
    State.DONE: "",
    State.FAILED: "failure",
    State.LATE: "failure",
    State.UNREACHABLE: "error",
}
"""What is not here has none: it was skipped, reserved, taken back because of others, or its turn did not come."""


def to_junit(events: Sequence[Event]) -> str:
    """Return a JUnit report, in the form that Ant's, Jenkins's and GitLab's readers agree on.

    ===================================================  =======================================================
    done                                                 passed
    failed, or late; also when it was rolled back after  ``failure``
    unreachable                                          ``error``: nobody knows what it serves
    skipped, reserved, rolled back because of others     ``skipped``
    waiting, at work, or never begun                     ``skipped``
    ===================================================  =======================================================

    A character that XML cannot hold is replaced by U+FFFD. Boards that are in no wave are a suite of their own.

    Raises:
        ValueError: the first event does not say what the rollout is.
    """
    told = chronicle(events)
    root = ET.Element("testsuites")
    suites = [(f"wave {wave + 1}", told.began(wave), boards) for wave, boards in told.waves.items()]
    if told.skipped:
        suites.append(("in no wave", None, told.skipped))
    for number, (name, began, boards) in enumerate(suites):
        root.append(_suite(told, number, name, began, boards))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(told: Chronicle, number: int, name: str, began: float | None, boards: Sequence[Told]) -> ET.Element:
    planned = told.planned
    verdicts = [_verdict(one) for one in boards]
    suite = ET.Element(
        "testsuite",
        {
            "name": name,
            "package": _text(planned.name),
            "id": str(number),
            "timestamp": utc(planned.at if began is None else began).strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": "localhost",
            "tests": str(len(boards)),
            "failures": str(verdicts.count("failure")),
            "errors": str(verdicts.count("error")),
            "skipped": str(verdicts.count("skipped")),
            "time": f"{sum(one.seconds(told.last) for one in boards):.3f}",
        },
    )
    said = {"rollout": planned.rollout, "by": planned.by, "result": told.result, "why": told.view.why}
    properties = ET.SubElement(suite, "properties")
    for key, value in said.items():
        ET.SubElement(properties, "property", {"name": key, "value": _text(value)})
    for one, verdict in zip(boards, verdicts, strict=True):
        suite.append(_case(told, one, verdict))
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    return suite


def _verdict(one: Told) -> str:
    return "failure" if one.board.failed else _VERDICTS.get(one.board.state, "skipped")


def _case(told: Chronicle, one: Told, verdict: str) -> ET.Element:
    place = one.board.place
    of = f"{told.planned.name}.{place.target}"
    seconds = f"{one.seconds(told.last):.3f}"
    case = ET.Element("testcase", {"name": _text(place.board), "classname": _text(of), "time": seconds})
    if verdict:
        words = f"{one.words}: {one.detail}" if one.detail else one.words
        found = ET.SubElement(case, verdict, {"message": _text(words)})
        if verdict != "skipped":
            found.set("type", one.board.state.value)
            found.text = _text("\n".join([words, *_facts(one)]))
    return case


def _facts(one: Told) -> list[str]:
    def named(release: str | None) -> str:
        return "not known" if release is None else release or "nothing"

    board = one.board
    return [
        f"was to serve: {named(board.place.release)}",
        f"serves: {named(board.serves)}",
        f"served before: {named(board.before)}",
        f"tries: {one.tries}",
    ]


def _text(text: str) -> str:
    """Return a text that XML can hold."""
    return _NOT_XML.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
