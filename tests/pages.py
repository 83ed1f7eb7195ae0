"""A page taken apart, for tests of what it says and of what may be in it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest


def words_of(page: str, drawings: bool = True) -> str:
    """Return the text of a page, with or without that of its drawings."""
    ignored = r"<style>.*?</style>" if drawings else r"<svg.*?</svg>"
    body = re.sub(ignored, "", page[page.index("<body>") :], flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def check_in_browser(page: Path, width: int, height: int) -> None:
    """Check that a browser draws the page; skip if there is none."""
    from PIL import Image

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
    command += [f"--user-data-dir={page.parent / 'profile'}", f"--screenshot={page.parent / 'shot.png'}"]
    subprocess.run([*command, f"file://{page}"], check=True, capture_output=True, timeout=120)
    with Image.open(page.parent / "shot.png") as shot:
        assert shot.size == (width, height) and len(shot.convert("RGB").getcolors(1 << 23) or []) > 100


class Tags(HTMLParser):
    """Every tag with the names of its attributes, and the classes that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *sorted(name for name, _ in attrs), dict(attrs).get("class") or ""))


def tags_of(page: str) -> list[tuple[str, ...]]:
    """Return every tag of a page."""
    parser = Tags()
    parser.feed(page)
    return parser.found
