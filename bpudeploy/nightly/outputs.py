"""Write the outputs of a night: page, JUnit, Markdown and metrics beside its record, and the index of all nights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from bpudeploy.files import write_atomically
from bpudeploy.nightly.history import MetricHistory
from bpudeploy.nightly.junit import to_junit
from bpudeploy.nightly.markdown import to_markdown
from bpudeploy.nightly.night import Night, nights_in
from bpudeploy.nightly.openmetrics import to_openmetrics
from bpudeploy.nightly.page import index_page, night_page
from bpudeploy.store.objects import storing

_REPORT = "report.html"


def write_outputs(night: Night, histories: Sequence[MetricHistory], directory: Path) -> None:
    """Write the reports of a night into its directory, and the index of all nights beside it.

    Args:
        histories: of the night's jobs, up to that night.
        directory: the night's, which contains its record.

    Raises:
        StoreError: they cannot be written.
    """
    texts = {
        _REPORT: night_page(night, histories),
        "junit.xml": to_junit(night),
        "summary.md": to_markdown(night),
        "metrics.prom": to_openmetrics(night),
    }
    for name, text in texts.items():
        _write(directory / name, text)
    nights = [
        (f"{quote(folder.name)}/{_REPORT}" if (folder / _REPORT).exists() else "", night)  # an interrupted one has none
        for folder, night in nights_in(directory.parent)
    ]
    _write(directory.parent / "index.html", index_page(nights))


def _write(path: Path, text: str) -> None:
    """Write a text, with unpaired surrogates replaced by question marks."""
    with storing(path):
        write_atomically(path, text.encode("utf-8", "replace").decode())
