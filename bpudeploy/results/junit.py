"""JUnit XML reports, in the dialect that Ant, Jenkins and GitLab all read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from xml.etree import ElementTree as ET

_NOT_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class CaseStatus(StrEnum):
    """The status of a test case."""

    PASSED = ""
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Case:
    """One test case."""

    name: str
    classname: str
    """Readers group cases by it."""
    seconds: float
    status: CaseStatus = CaseStatus.PASSED
    message: str = ""
    type: str = ""
    """Of the failure or error."""
    text: str = ""
    """Details of a failure or error."""


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
    """Return a report as XML; characters that XML does not allow are replaced by U+FFFD."""
    root = ET.Element("testsuites")
    root.extend(_suite(number, suite) for number, suite in enumerate(suites))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(number: int, suite: Suite) -> ET.Element:
    statuses = [case.status for case in suite.cases]
    attributes = {
        "name": _text(suite.name),
        "package": _text(suite.package),
        "id": str(number),
        "timestamp": suite.began.strftime("%Y-%m-%dT%H:%M:%S"),
        "hostname": "localhost",
        "tests": str(len(suite.cases)),
        "failures": str(statuses.count(CaseStatus.FAILURE)),
        "errors": str(statuses.count(CaseStatus.ERROR)),
        "skipped": str(statuses.count(CaseStatus.SKIPPED)),
        "time": f"{sum(case.seconds for case in suite.cases):.3f}",
    }
    element = ET.Element("testsuite", attributes)
    properties = ET.SubElement(element, "properties")
    for key, value in suite.properties.items():
        ET.SubElement(properties, "property", {"name": _text(key), "value": _text(value)})
    element.extend(_case(case) for case in suite.cases)
    ET.SubElement(element, "system-out")
    ET.SubElement(element, "system-err")
    return element


def _case(case: Case) -> ET.Element:
    attributes = {"name": _text(case.name), "classname": _text(case.classname), "time": f"{case.seconds:.3f}"}
    element = ET.Element("testcase", attributes)
    if case.status:
        mark = ET.SubElement(element, case.status.value, {"message": _text(case.message)})
        if case.status is not CaseStatus.SKIPPED:
            mark.set("type", case.type)
            mark.text = _text(case.text)
    return element


def _text(text: str) -> str:
    """Return ``text`` without characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
