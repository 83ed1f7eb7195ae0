"""JUnit reports: suites and cases, in the form that Ant's, Jenkins's and GitLab's readers agree on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from xml.etree import ElementTree as ET

_NOT_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Verdict(StrEnum):
    """What a case is marked as."""

    PASSED = ""
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Case:
    """One test case."""

    name: str
    of: str
    """The class that readers group it under."""
    seconds: float
    verdict: Verdict = Verdict.PASSED
    message: str = ""
    kind: str = ""
    """What kind of failure or error it is."""
    text: str = ""
    """All that is known of a failure or an error."""


@dataclass(frozen=True)
class Suite:
    """One test suite."""

    name: str
    package: str
    began: datetime
    """UTC."""
    properties: Mapping[str, str]
    cases: Sequence[Case]


def report(suites: Sequence[Suite]) -> str:
    """Return a report as XML. A character that XML cannot hold is replaced by U+FFFD."""
    root = ET.Element("testsuites")
    for number, suite in enumerate(suites):
        root.append(_suite(number, suite))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(number: int, suite: Suite) -> ET.Element:
    verdicts = [case.verdict for case in suite.cases]
    found = ET.Element(
        "testsuite",
        {
            "name": _text(suite.name),
            "package": _text(suite.package),
            "id": str(number),
            "timestamp": suite.began.strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": "localhost",
            "tests": str(len(suite.cases)),
            "failures": str(verdicts.count(Verdict.FAILURE)),
            "errors": str(verdicts.count(Verdict.ERROR)),
            "skipped": str(verdicts.count(Verdict.SKIPPED)),
            "time": f"{sum(case.seconds for case in suite.cases):.3f}",
        },
    )
    properties = ET.SubElement(found, "properties")
    for key, value in suite.properties.items():
        ET.SubElement(properties, "property", {"name": _text(key), "value": _text(value)})
    found.extend(_case(case) for case in suite.cases)
    ET.SubElement(found, "system-out")
    ET.SubElement(found, "system-err")
    return found


def _case(case: Case) -> ET.Element:
    names = {"name": _text(case.name), "classname": _text(case.of), "time": f"{case.seconds:.3f}"}
    found = ET.Element("testcase", names)
    if case.verdict:
        mark = ET.SubElement(found, case.verdict.value, {"message": _text(case.message)})
        if case.verdict is not Verdict.SKIPPED:
            mark.set("type", case.kind)
            mark.text = _text(case.text)
    return found


def _text(text: str) -> str:
    """Return a text that XML can hold."""
    return _NOT_XML.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
