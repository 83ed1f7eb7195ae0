"""Read a vendor tool's log line by line: it may contain megabytes of calibration arrays."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from bpudeploy.backends.horizon.findings import LatencyEstimate, LogSummary
from bpudeploy.backends.horizon.tables import Tables

MAPPER_CLOSING = ("Convert to runtime bin file successfully!", "End Model Convert")
COMPILE_CLOSING = ("The hb_compile completes running",)
TAIL = 200
"""Lines kept for error messages."""
_LONGEST_LINE = 1 << 16
_MOST_WARNINGS = 100
_STAMP = re.compile(
    r"\s*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ?"
    r"(?:file: \S+ func: \S+ line No: \d+ ?)?(?P<level>(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)(?= |$) ?)?"
)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_VERSION = re.compile(r"(hbdk runtime|hbdk4?|hmct|horizon_nn|hb_mapper|hb_compile) version *:? +(\S+)$")
_METHOD = re.compile(r"(?:Select|Run calibration model with) (\S+) method\.?$")
_IMAGES = re.compile(r"(?:(?:The )?num of calibration data: (\d+)|There are (\d+) samples in the data set\.)$")
_BAR = re.compile(r"^.*it/s\](?=\d{4}-\d\d-\d\d )")
"""A progress bar without a line end before the next record."""
_ESTIMATE = re.compile(r"FPS=([\d.]+), latency = ([\d.]+) us, DDR = (\d+) bytes\s*(?:\(see (\S+)\.html\))?")
_WARNING = re.compile(
    r"Layer \S+ will be executed on CPU|expects be \d+ dimensions|expect data shape range|got unexpected \w+ threshold"
    r"|does not support data type|, then requantized to |^expected (?:bpu|cpu) node: |^find illegal threshold"
    r"|will be set back to |but actually calculate in "
    r"| cannot execute on BPU because | not supported by BPU$"
)
_PERCENT = re.compile(r"\[=*-? *\] +(\d{1,3})%$")
_LONGEST_ERROR = 20
"""Lines of one error; some are followed by a traceback."""
_PHASE = re.compile(r"Start to (?!execute )([A-Za-z].{0,60}?)\.*$")


class Line:
    """One line of a log without its prefix; ``stamped``: it had one."""

    __slots__ = ("level", "stamped", "text")

    def __init__(self, raw: str) -> None:
        clean = _BAR.sub("", _ESCAPE.sub("", raw.rstrip("\r\n")))
        stamp = _STAMP.match(clean)
        self.stamped = stamp is not None
        self.level = (stamp["level"] or "").strip() if stamp else ""
        self.text = clean[stamp.end() :] if stamp else clean


def phase(line: Line) -> str | None:
    """Return the phase that a line announces, such as "calibrate the model"."""
    found = _PHASE.match(line.text) if line.stamped else None
    return found[1] if found else None


def percent(line: Line) -> int | None:
    """Return how much is done by the progress bar that a line is, such as ``[==-   ]   5%``."""
    found = _PERCENT.match(line.text.strip())
    return int(found[1]) if found and not line.stamped else None


class LogReader:
    """Parses a log's lines in order; unknown lines are ignored."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._tables = Tables()
        self._versions: dict[str, str] = {}
        self._method: str | None = None
        self._images: int | None = None
        self._estimates: list[LatencyEstimate] = []
        self._warnings: list[str] = []
        self._closing: list[str] = []
        self._errors: deque[list[str]] = deque(maxlen=TAIL)
        self._in_error = False

    def feed(self, raw: str) -> Line:
        """Parse one line, with or without its prefix, and return it cleaned."""
        line = Line(raw)
        if line.text.strip():
            self.tail.append(f"{line.level} {line.text}".strip()[:1000])
        self._error(line)
        if not self._tables.feed(line.text, line.stamped):
            self._message(line.text.strip())
        return line

    @property
    def errors(self) -> tuple[str, ...]:
        """The records of level ERROR, oldest first, each with its continuation lines."""
        return tuple("\n".join(lines) for lines in self._errors)

    def _error(self, line: Line) -> None:
        if line.stamped:
            self._in_error = line.level in ("ERROR", "CRITICAL")
            if self._in_error:
                self._errors.append([line.text.strip()[:1000]])
        elif self._in_error and line.text.strip() and len(self._errors[-1]) < _LONGEST_ERROR:
            self._errors[-1].append(line.text.strip()[:1000])

    def _message(self, text: str) -> None:
        """Parse a line outside the tables."""
        if len(text) > 1000:
            return
        if found := _VERSION.match(text):
            self._versions[found[1].replace(" ", "_")] = found[2]
        elif found := _METHOD.match(text):
            self._method = found[1]
        elif found := _IMAGES.match(text):
            self._images = self._images or int(found[1] or found[2])
        elif found := _ESTIMATE.match(text):
            self._estimates.append(_estimate(found, len(self._estimates)))
        elif _WARNING.search(text) and len(self._warnings) < _MOST_WARNINGS:
            self._warnings.append(text)
        else:
            self._closing += [c for c in (*MAPPER_CLOSING, *COMPILE_CLOSING) if text.startswith(c)]

    def summary(self) -> LogSummary:
        """Return the content of the lines so far."""
        return LogSummary(
            versions=dict(self._versions),
            calibration_method=self._method,
            calibration_images=self._images,
            nodes=tuple(self._tables.nodes),
            outputs=tuple(self._tables.outputs),
            ports=tuple(self._tables.ports),
            estimates=tuple(self._estimates),
            warnings=tuple(self._warnings),
            closing=tuple(dict.fromkeys(self._closing)),
            unread_rows=self._tables.unread,
        )


def _estimate(found: re.Match[str], number: int) -> LatencyEstimate:
    name = found[4] or f"subgraph_{number}"
    return LatencyEstimate(subgraph=name, latency_us=float(found[2]), fps=float(found[1]), ddr_bytes=int(found[3]))


def read_log(path: Path) -> LogReader:
    """Read a whole log, in bounded memory; above 1 MiB its older parts are ``.log.2`` and ``.log.1``."""
    reader = LogReader()
    for part in parts(path):
        with part.open("rb") as stream:
            for line in lines(stream):
                reader.feed(line)
    return reader


def parts(path: Path) -> list[Path]:
    """Return the files of a log, oldest first."""
    older = [(int(p.suffix[1:]), p) for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    return [p for _, p in sorted(older, reverse=True)] + ([path] if path.is_file() else [])


def lines(stream: BinaryIO) -> Iterator[str]:
    """Yield a stream's lines; one longer than 64 KiB is split."""
    while piece := stream.readline(_LONGEST_LINE):
        yield piece.decode("utf-8", "replace")


def indented_tail(tail: Iterable[str], count: int = 12) -> str:
    """Return the last lines, indented, for an error message."""
    return "\n".join(f"    {line}" for line in list(tail)[-count:])
