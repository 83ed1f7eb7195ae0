"""What comes out of a night: its page, JUnit, Markdown and metrics beside its record, and the page of all nights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from bpudeploy.files import write_atomically
from bpudeploy.nightly.history import History
from bpudeploy.nightly.junit import to_junit
from bpudeploy.nightly.markdown import to_markdown
from bpudeploy.nightly.night import Night, nights_in
from bpudeploy.nightly.openmetrics import to_openmetrics
from bpudeploy.nightly.page import index_page, night_page
from bpudeploy.store.objects import storing

REPORT = "report.html"


def write_outputs(night: Night, histories: Sequence[History], directory: Path) -> None:
    """Write what people and machines read of a night into its directory, and the page of all nights beside it.

    Args:
        histories: of the night's jobs, up to that night.
        directory: the night's, where its record is already.

    Raises:
        StoreError: they cannot be written.
    """
    texts = {
        REPORT: night_page(night, histories),
        "junit.xml": to_junit(night),
        "summary.md": to_markdown(night),
        "metrics.prom": to_openmetrics(night),
    }
    for name, text in texts.items():
        _write(directory / name, text)
    parent = directory.parent
    nights = [(_link(folder), one) for folder, one in nights_in(parent)]
    _write(parent / "index.html", index_page(nights))


def _link(folder: Path) -> str:
    """Return the link to a night's page; empty where it was cut off before it had one."""
    return f"{quote(folder.name)}/{REPORT}" if (folder / REPORT).exists() else ""


def _write(path: Path, text: str) -> None:
    """Write a text; half of a pair of surrogates, which no encoding has, becomes a question mark."""
    with storing(path):
        write_atomically(path, text.encode("utf-8", "replace").decode())
