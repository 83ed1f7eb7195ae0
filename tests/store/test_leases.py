"""A lease: one machine at a time, and a holder that is killed is followed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from bpudeploy.digest import Key
from bpudeploy.store.leases import Pace, lease
from bpudeploy.store.shared import open_shared

KEY = Key("0" * 64)
QUICK = Pace(beat_s=0.3, look_s=0.05, dead_s=3.0)


@dataclass
class Held:
    """Who holds it, at once and in all, and how many had to wait."""

    now: int = 0
    most: int = 0
    times: int = 0
    waited: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, url: str, seconds: float, pace: Pace = QUICK) -> None:
        with lease(open_shared(url), KEY, self.wait, pace):
            with self.guard:
                self.now, self.times = self.now + 1, self.times + 1
                self.most = max(self.most, self.now)
            time.sleep(seconds)
            with self.guard:
                self.now -= 1

    def wait(self) -> None:
        with self.guard:
            self.waited += 1


def together(*work: threading.Thread) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(60)
    assert not any(thread.is_alive() for thread in work)


def left(url: str) -> list[str]:
    shared = open_shared(url)
    with suppress(FileNotFoundError):
        return list(shared.files.find(f"{shared.base}/leases"))
    return []


def test_one_at_a_time_and_nothing_is_left(url: str, request: pytest.FixtureRequest) -> None:
    held = Held()
    together(*(threading.Thread(target=held.hold, args=(url, 0.05)) for _ in range(6)))
    assert held.times == 6 and left(url) == []
    if "juicefs" not in request.node.name:  # which lets several make the same number in the same moment
        assert held.most == 1 and held.waited


def test_a_holder_that_lives_keeps_it_however_long(url: str) -> None:
    held = Held()
    first = threading.Thread(target=held.hold, args=(url, QUICK.dead_s * 1.5))
    first.start()
    while not held.now:
        time.sleep(0.02)
    second = threading.Thread(target=held.hold, args=(url, 0.0))
    together(second)
    first.join()
    assert held.most == 1 and held.times == 2 and held.waited == 1


HOLDER = """
import sys, time
from bpudeploy.store.leases import lease
from bpudeploy.store.shared import open_shared
from tests.store.test_leases import KEY, QUICK
with lease(open_shared(sys.argv[1]), KEY, lambda: None, QUICK):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_that_was_killed_is_followed_by_one_of_those_who_wait(url: str, request: pytest.FixtureRequest) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.kill()
    assert len(left(url)) == 1
    held, started = Held(), time.monotonic()
    together(*(threading.Thread(target=held.hold, args=(url, 0.05)) for _ in range(4)))
    assert held.times == 4 and held.waited == 4 and left(url) == []
    assert QUICK.dead_s <= time.monotonic() - started < 30
    if "juicefs" not in request.node.name:
        assert held.most == 1
