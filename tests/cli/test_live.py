"""What is drawn while a file is on its way."""

from __future__ import annotations

import io
import time

import pytest

from bpudeploy.cli.render import Live
from bpudeploy.events import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bytes_are_drawn_with_their_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = Terminal(), 100.0
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Live(as_json=False) as live:
        for mb in (40, 50, 60):  # 40 MB were there already: they are no speed
            live.draw(Progress("push", mb * 10**6, 100 * 10**6, "bytes"))
            now += 2.0
    assert "push                   40.0 of 100.0 MB\r" in screen.getvalue()
    assert "60.0 of 100.0 MB, 5.0 MB/s, 8 s left" in screen.getvalue()


def test_images_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with Live(as_json=False) as live:
        live.draw(Progress("evaluate", 3, 8, "images"))
    assert "3 of 8 images\r" in screen.getvalue()
