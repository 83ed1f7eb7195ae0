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


def parse(text: str) -> dict[str, dict[str, Any]]:
    """Return temperatures_c, cpu_khz, bpu_hz and bpu_busy of the last report; missing values are left out.

    Raises:
        ValueError: a line of one of these sections is malformed; the message has the line.
    """
    found: dict[str, dict[str, Any]] = {}
    section = ""
    header: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line == "-e" or line.startswith("-e "):
            line = line[2:].strip()
        if not line:
            continue
        if _REPORT.fullmatch(line):
            found, section, header = _empty(), "", []
            continue
        title = _TITLE.fullmatch(line)
        if title:
            section, header = title.group(1), []
            found = found or _empty()
        elif section in ("cpu frequency", "bpu status information") and not header:
            if not _HEADER.fullmatch(line):
                raise _malformed(number, line)
            header = line.split()
        else:
            _parse_row(found, section, header, line, number)
    if not found or not any(found.values()):
        raise ValueError("hrut_somstatus: no report in its output")
    return found


def _empty() -> dict[str, dict[str, Any]]:
    return {"temperatures_c": {}, "cpu_khz": {}, "bpu_hz": {}, "bpu_busy": {}}


def _malformed(number: int, line: str) -> ValueError:
    return ValueError(f"hrut_somstatus, line {number}: cannot parse {line!r}")


def _parse_row(found: dict[str, dict[str, Any]], section: str, header: list[str], line: str, number: int) -> None:
    """Add one row of a section; rows of other sections (voltages, DDR, GPU) are ignored."""
    if section == "temperature":
        match = _TEMPERATURE.fullmatch(line)
        if not match:
            raise _malformed(number, line)
        found["temperatures_c"][match.group(1)] = float(match.group(2))
    elif section in ("cpu frequency", "bpu status information"):
        match = _ROW.fullmatch(line)
        values = match.group(2).split() if match else []
        if not match or len(values) != len(header):
            raise _malformed(number, line)
        row = {}
        for column, value in zip(header, values):
            in_mega = column.endswith("(M)")
            unit = (1000 if section == "cpu frequency" else 1000000) if in_mega else 1
            row[column[:3] if in_mega else column] = int(value) * unit
        slowest, fastest = row.get("min", 0), row.get("max", row.get("cur", 0))
        if not slowest * 0.98 <= row.get("cur", fastest) <= fastest * 1.02:
            raise _malformed(number, line)
        clocks = {name: row[name] for name in ("cur", "max") if name in row}
        if clocks:
            found["cpu_khz" if section == "cpu frequency" else "bpu_hz"][match.group(1)] = clocks
        if "ratio" in row:
            if row["ratio"] > 100:
                raise _malformed(number, line)
            found["bpu_busy"][match.group(1)] = row["ratio"]
