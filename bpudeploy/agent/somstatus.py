"""What ``hrut_somstatus`` prints, as the sensors of a conditions line.

One tool, three shapes: X3 has a row for each CPU in kHz and for each BPU in Hz; newer X5 images print the same rows in
MHz, with ``(M)`` in the header and a stray ``-e`` in front (an ``echo -e`` under a plain sh); the S-series has a row
for each policy, and of the BPU the busy share only. A section is known by its title, a column by its header.
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
    """Return temperatures_c, cpu_khz, bpu_hz and bpu_busy of the last report; what it does not tell is left out.

    Raises:
        ValueError: a line of a section that is read here is not understood; it names the line.
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
            found, section, header = _none(), "", []
            continue
        title = _TITLE.fullmatch(line)
        if title:
            section, header = title.group(1), []
            found = found or _none()
        elif section in ("cpu frequency", "bpu status information") and not header:
            if not _HEADER.fullmatch(line):
                raise ValueError(_wrong(number, line))
            header = line.split()
        else:
            _read(found, section, header, line, number)
    if not found or not any(found.values()):
        raise ValueError("hrut_somstatus: no report in what it printed")
    return found


def _none() -> dict[str, dict[str, Any]]:
    return {"temperatures_c": {}, "cpu_khz": {}, "bpu_hz": {}, "bpu_busy": {}}


def _wrong(number: int, line: str) -> str:
    return f"hrut_somstatus, line {number}: {line!r} is not understood"


def _read(found: dict[str, dict[str, Any]], section: str, header: list[str], line: str, number: int) -> None:
    """Add one row of a section; rows of other sections (voltages, DDR, GPU) are passed over."""
    if section == "temperature":
        match = _TEMPERATURE.fullmatch(line)
        if not match:
            raise ValueError(_wrong(number, line))
        found["temperatures_c"][match.group(1)] = float(match.group(2))
    elif section in ("cpu frequency", "bpu status information"):
        match = _ROW.fullmatch(line)
        values = match.group(2).split() if match else []
        if not match or len(values) != len(header):
            raise ValueError(_wrong(number, line))
        row = {}
        for column, value in zip(header, values):
            in_mega = column.endswith("(M)")
            unit = (1000 if section == "cpu frequency" else 1000000) if in_mega else 1
            row[column[:3] if in_mega else column] = int(value) * unit
        slowest, fastest = row.get("min", 0), row.get("max", row.get("cur", 0))
        if not slowest * 0.98 <= row.get("cur", fastest) <= fastest * 1.02:
            raise ValueError(_wrong(number, line))
        clocks = {name: row[name] for name in ("cur", "max") if name in row}
        if clocks:
            found["cpu_khz" if section == "cpu frequency" else "bpu_hz"][match.group(1)] = clocks
        if "ratio" in row:
            if row["ratio"] > 100:
                raise ValueError(_wrong(number, line))
            found["bpu_busy"][match.group(1)] = row["ratio"]
