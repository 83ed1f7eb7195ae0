"""The tables in a vendor tool's log: a state machine that reads line by line.

hb_mapper pads its columns with two or more spaces and prints the rows without a prefix; hb_compile draws ``|`` and
prefixes every row. A header is recognised by its column names, so one parser reads all six variants.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from bpudeploy.backends.horizon.findings import OutputSimilarity, PlacementRow, Port, Unit

_NODE = {
    "Node": "name",
    "ON": "on",
    "Subgraph": "subgraph",
    "Type": "op",
    "NodeType": "op",
    "Cosine Similarity": "cosine",
    "Calibrated Cosine": "cosine",
    "Quantized Cosine": "quantized_cosine",
    "Threshold": "threshold",
    "In/Out DataType": "dtype",
    "DataType": "dtype",
    "Output Data Type": "dtype",
}
_OUTPUT = {
    "Output": "name",
    "TensorName": "name",
    "Cosine Similarity": "cosine",
    "Calibrated Cosine": "cosine",
    "Quantized Cosine": "quantized_cosine",
    "L1 Distance": "l1",
    "L2 Distance": "l2",
    "Chebyshev Distance": "chebyshev",
}
_NUMBERS = frozenset({"cosine", "quantized_cosine", "threshold", "l1", "l2", "chebyshev"})
_SUBGRAPH = re.compile(r"id\((\d+)\)$")
_BORDER = re.compile(r"[=\-+\s]+$")
_PORT = re.compile(r"(\S+)\s+(input|output)\s+\[([\d,\s-]*)\]\s+(\w+)$")
_PORTS = ["NAME", "TYPE", "SHAPE", "DATA_TYPE"]

RowParser = Callable[[str], bool]


class Tables:
    """The tables so far. A tool may print one twice: the last one counts."""

    def __init__(self) -> None:
        self.nodes: list[PlacementRow] = []
        self.outputs: list[OutputSimilarity] = []
        self.ports: list[Port] = []
        self.unread = 0
        self._row: RowParser | None = None

    def feed(self, text: str, stamped: bool) -> bool:
        """Parse one line; return whether it is part of a table."""
        header = self._header(text)
        if header is not None:
            self._row = header
            return True
        if self._row is None:
            return False
        if not text.strip() or _BORDER.match(text) or self._row(text):
            return True
        if stamped:
            self._row = None
            return False
        self.unread += 1
        return True

    def _header(self, text: str) -> RowParser | None:
        cells = _cells(text)
        if len(cells) < 2:
            return None
        if cells[0] == "Node" and set(cells) <= _NODE.keys():
            self.nodes = []
            return lambda line: self._node([_NODE[c] for c in cells], line)
        if cells[0] in ("Output", "TensorName") and set(cells) <= _OUTPUT.keys():
            self.outputs = []
            return lambda line: self._output([_OUTPUT[c] for c in cells], line)
        if text.split() == _PORTS:
            self.ports = []
            return self._port
        return None

    def _node(self, columns: list[str], text: str) -> bool:
        row = _row(columns, text)
        units = _units(row["on"]) if row is not None and "on" in row else None
        if row is None or units is None:
            return False
        subgraph = _SUBGRAPH.match(row.get("subgraph", ""))
        if "subgraph" in row and subgraph is None and row["subgraph"] != "--":
            return False
        found: dict[str, Any] = {name: _number(row[name]) for name in _NUMBERS & row.keys()}
        dtype = row.get("dtype", "--")
        self.nodes.append(
            PlacementRow(
                name=row["name"],
                op=row.get("op", ""),
                on=units,
                subgraph=int(subgraph[1]) if subgraph else None,
                dtype=None if dtype == "--" else dtype,
                **found,
            )
        )
        return True

    def _output(self, columns: list[str], text: str) -> bool:
        row = _row(columns, text)
        if row is None or not all(row[name] == "--" or _is_number(row[name]) for name in _NUMBERS & row.keys()):
            return False
        self.outputs.append(OutputSimilarity(name=row["name"], **{n: _number(row[n]) for n in _NUMBERS & row.keys()}))
        return True

    def _port(self, text: str) -> bool:
        found = _PORT.match(text.strip())
        if found is None:
            return False
        shape = tuple(int(n) for n in found[3].replace(",", " ").split())
        self.ports.append(Port(name=found[1], direction=found[2], shape=shape, dtype=found[4]))
        return True


def _cells(text: str) -> list[str]:
    line = text.strip()
    if line.startswith("|") and line.endswith("|") and len(line) > 1:
        return [cell.strip() for cell in line[1:-1].split("|")]
    return re.split(r"\s{2,}", line)


def _row(columns: list[str], text: str) -> Mapping[str, str] | None:
    cells = _cells(text)
    return dict(zip(columns, cells, strict=True)) if len(cells) == len(columns) and all(cells) else None


def _units(text: str) -> tuple[Unit, ...] | None:
    """Parse "BPU", "VPU+BPU", or "--" (folded); return None for anything else."""
    if text == "--":
        return ()
    parts = text.split("+")
    return tuple(Unit(part) for part in parts) if all(part in Unit.__members__ for part in parts) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float | None:
    """Return a finite number; None for "--", NaN and infinity."""
    value = float(text) if _is_number(text) else math.nan
    return value if math.isfinite(value) else None
