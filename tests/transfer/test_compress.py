"""Compression is for bytes that shrink, on a link that is slower than zlib."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from benchmarks.proxy import Proxy
from bpudeploy.transfer.compress import PROBE, WARM_UP, Pays, sampled
from bpudeploy.transfer.send import send
from tests.transfer.conftest import PYTHONS, Server

TEXT = b"".join(b"%d " % n for n in range(3_000_000))  # 23 MB, a third of it when compressed


@pytest.mark.parametrize(("seconds_per_mb", "pays"), [(1e-6, False), (10.0, True)])
def test_it_pays_when_sending_a_byte_takes_longer_than_compressing_it(seconds_per_mb: float, pays: bool) -> None:
    now = 0.0
    asked = Pays(memoryview(TEXT), clock=lambda: now)
    answers = []
    for sent in range(0, WARM_UP + PROBE + (4 << 20), 1 << 20):
        answers.append(asked.after(sent))
        now += seconds_per_mb
    assert not any(answers[: (WARM_UP + PROBE) >> 20]), "the link is timed first"
    assert answers[-1] is pays


def test_it_never_pays_for_random_bytes() -> None:
    asked = Pays(memoryview(os.urandom(1 << 20)), clock=iter(range(10**6)).__next__)
    assert not any(asked.after(sent) for sent in range(0, 64 << 20, 1 << 20))


def test_samples_are_taken_all_over() -> None:
    half = os.urandom(1 << 20)
    assert 0.4 < sampled(memoryview(half + bytes(1 << 20)))[0] < 0.6
    assert sampled(memoryview(b"")) == (1.0, 0.0)


@pytest.mark.parametrize("python", list(PYTHONS))
def test_on_a_slow_link_fewer_bytes_are_sent(server: Server, tmp_path: Path, python: str) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(TEXT)
    with (
        Proxy(server.port, rate=8e6) as proxy,
        server.reached(proxy.port, python=PYTHONS[python]) as board,
    ):
        sent = send(board, local, PurePosixPath(remote), step="push")
        assert remote.read_bytes() == TEXT
        assert proxy.up < sent.wire_bytes * 1.01 + 20_000
    assert sent.wire_bytes < 0.8 * len(TEXT)
