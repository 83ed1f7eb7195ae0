"""The tables that the tools print, to the column."""

from __future__ import annotations

from collections.abc import Sequence


def cut(name: str, width: int) -> str:
    """Cut a long name in front, as the tools do: what is left is not unique."""
    return name if len(name) <= width else "..." + name[-(width - 3) :]


def bordered(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return family H's table line by line: each gets the log's prefix."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    border = "+" + "+".join("-" * (w + 2) for w in widths) + "+"
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) + " |" for r in (header, *rows)
    ]
    return [border, lines[0], border, *lines[1:], border]
