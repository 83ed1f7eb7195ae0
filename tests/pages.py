"""A page taken apart, for tests of what it says and of what may be in it."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser


def words_of(page: str) -> str:
    """Return what a page says, without its drawings' style."""
    body = re.sub(r"<style>.*?</style>", "", page[page.index("<body>") :], flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


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
