"""The tables that the tools print, to the column."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tests.fakes.nodes import Row, figure

VARIANTS = ("checker-old", "checker-new", "makertbin-old", "makertbin-mid", "makertbin-1.24")
_PAIRS = "In/Out DataType"
_HEADERS = {
    "checker-old": (),
    "checker-new": (_PAIRS,),
    "makertbin-old": ("Cosine Similarity", "Threshold"),
    "makertbin-mid": ("Cosine Similarity", "Threshold", _PAIRS),
    "makertbin-1.24": ("Cosine Similarity", "Threshold", "DataType"),
}


def variant(default: str) -> str:
    """Return which of the five node tables is printed: FAKE_HB_TABLE, or the default."""
    chosen = os.environ.get("FAKE_HB_TABLE", default)
    if chosen not in VARIANTS:
        raise SystemExit(f"fake: FAKE_HB_TABLE={chosen} is none of {', '.join(VARIANTS)}")
    return chosen


def cut(name: str, width: int) -> str:
    """Cut a long name in front, as the tools do: what is left is not unique."""
    return name if len(name) <= width else "..." + name[-(width - 3) :]


def framed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return family B's table: lines of = and -, columns padded and two spaces apart, the end stripped."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    lines = ["".join(cell.ljust(w) + "  " for cell, w in zip(r, widths, strict=True)) for r in (header, *rows)]
    across = len(lines[0])
    return "\n".join(["=" * across, lines[0], "-" * across, *lines[1:]]).rstrip()


def node_table(rows: Sequence[Row], which: str) -> str:
    """Return the title and the node table of family B."""
    columns = _HEADERS[which]
    title = "main quantized" if which == "makertbin-1.24" else "converted model"
    body = [_cells(row, columns, which, row is rows[-1]) for row in rows]
    return f"The {title} node information:\n" + framed(("Node", "ON ", "Subgraph", "Type", *columns), body)


def _cells(row: Row, columns: Sequence[str], which: str, last: bool) -> list[str]:
    found = {
        "Cosine Similarity": "--" if row.cosine is None else f"{row.cosine:.6f}",
        "Threshold": "--" if row.threshold is None else _threshold(row.threshold, which),
        "DataType": row.dtype,
        _PAIRS: _pair(row, last),
    }
    kind = row.plain if which.endswith(("new", "mid")) else row.kind
    subgraph = "--" if row.subgraph is None else f"id({row.subgraph})"
    return [cut(row.name, 50), row.on, subgraph, kind, *(found[c] for c in columns)]


def _threshold(value: float, which: str) -> str:
    return (
        f"{value:.6g}" if which.endswith("1.24") and value != 127 else f"{value:.6f}" if value != 127 else _127(which)
    )


def _127(which: str) -> str:
    return "127.0" if which.endswith("1.24") else "127.000000"


def _pair(row: Row, last: bool) -> str:
    if row.on == "CPU":
        return "float/float"
    return f"{row.dtype}/int32" if last and row.plain == "Conv" else f"{row.dtype}/{row.dtype}"


def output_table(outputs: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the title and the table of the outputs; its cosine is that of the last node."""
    header = ("Output", "Cosine Similarity", "L1 Distance", "L2 Distance", "Chebyshev Distance")
    body = []
    for name in outputs:
        far = [figure(w, name) * scale for w, scale in (("l1", 0.8), ("l2", 0.03), ("max", 4))]
        body.append([name, f"{rows[-1].cosine or 0:.6f}", *(f"{f:.6f}" for f in far)])
    return "The quantized model output:\n" + framed(header, body)


def bordered(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return family H's table line by line: each gets the log's prefix."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    border = "+" + "+".join("-" * (w + 2) for w in widths) + "+"
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) + " |" for r in (header, *rows)
    ]
    return [border, lines[0], border, *lines[1:], border]
