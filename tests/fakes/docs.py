"""Print the fakes' refusals, and write their counts into docs/reference/vendor-fakes.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fakes.cases import TOOLS, Case, cases

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "vendor-fakes.md"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " / ")


def _row(case: Case) -> str:
    says = "<br>".join(f"`{_cell(text)}`" for text in case.says)
    return f"| {_cell(case.wrong)} | {says} | {case.source}{' [?]' if case.inferred else ''} |"


def table(tool: str) -> str:
    """Return the refusals of a tool as a table."""
    return "\n".join(["| what is wrong | what the tool says | source |", "|---|---|---|", *map(_row, cases(tool))])


def written(page: str) -> str:
    """Return the page with its counts as the cases have them."""
    for tool in TOOLS:
        every = cases(tool)
        count = f"{len(every)} refusals, {sum(c.inferred for c in every)} of them [?]"
        page = re.sub(rf"(## {tool}: ).*", rf"\g<1>{count}", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
    for tool in TOOLS:
        print(f"## {tool}\n\n{table(tool)}\n")
