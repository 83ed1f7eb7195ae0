"""Parse the output of ``hrut_somstatus`` into the sensors of a conditions line.

The format varies: X3 has a row per CPU in kHz and per BPU in Hz; newer X5 images print the same rows in MHz, with
``(M)`` in the header and a stray ``-e`` in front (an ``echo -e`` under a plain sh); the S series has a row per policy,
and only utilization for the BPU. Sections are recognized by title, columns by header.
"""

from __future__ import annotations

import re
from typing import Any

_REPORT = re.compile(r"=+\d+=+")
_TITLE = re.compile(r"(\S.*?)\s*-+>")
_TEMPERATURE = re.compile(r"([\w.-]+)\s*:\s*(-?\d+(?:\.\d+)?) \(C\)", re.ASCII)
_ROW = re.compile(r"((?:cpu|policy|bpu)\d+):\s*(\d+(?:\s+\d+)*)", re.ASCII)
_HEADER = re.compile(r"(?:(?:min|cur|max)(?:\(M\))?|ratio)(?:\s+(?:(?:min|cur|max)(?:\(M\))?|ratio))*")


_CLOCKS = {"cpu frequency": ("cpu_khz", 1000), "bpu status information": ("bpu_hz", 1000000)}
"""By section: the kind of its clocks, and the factor of a column in MHz."""


def parse(text: str) -> dict[str, dict[str, Any]]:
    """Return temperatures_c, cpu_khz, bpu_hz and bpu_busy of the last report; missing values are left out.

    Raises:
        ValueError: a line of one of these sections is malformed; the message has the line.
    """
    found: dict[str, dict[str, Any]] = {}
    section = ""
    header: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"^-e( |$)", "", raw.strip()).strip()
        title = _TITLE.fullmatch(line)
        if _REPORT.fullmatch(line) or (title and not found):
            found = {"temperatures_c": {}, "cpu_khz": {}, "bpu_hz": {}, "bpu_busy": {}}
        if _REPORT.fullmatch(line) or title:
            section, header = title.group(1) if title else "", []
        elif line and not _parse_line(found, section, header, line):
            raise ValueError(f"hrut_somstatus, line {number}: cannot parse {line!r}")
    if not any(found.values()):
        raise ValueError("hrut_somstatus: no report in its output")
    return found


def _parse_line(found: dict[str, dict[str, Any]], section: str, header: list[str], line: str) -> bool:
    """Add a line of a section; return whether it is well-formed. Other sections (voltages, DDR, GPU) are ignored."""
    if section == "temperature":
        sensor = _TEMPERATURE.fullmatch(line)
        if sensor:
            found["temperatures_c"][sensor.group(1)] = float(sensor.group(2))
        return sensor is not None
    if section not in _CLOCKS:
        return True
    if not header:
        header += line.split() if _HEADER.fullmatch(line) else []
        return bool(header)
    match = _ROW.fullmatch(line)
    if not match or len(match.group(2).split()) != len(header):
        return False
    name, (kind, mega) = match.group(1), _CLOCKS[section]
    row = {}
    for column, value in zip(header, match.group(2).split()):
        row[column.replace("(M)", "")] = int(value) * (mega if column.endswith("(M)") else 1)
    slowest, fastest = row.get("min", 0), row.get("max", row.get("cur", 0))
    if not slowest * 0.98 <= row.get("cur", fastest) <= fastest * 1.02 or row.get("ratio", 0) > 100:
        return False
    clocks = {column: row[column] for column in ("cur", "max") if column in row}
    if clocks:
        found[kind][name] = clocks
    if "ratio" in row:
        found["bpu_busy"][name] = row["ratio"]
    return True
