"""Compression is used for compressible bytes on a link that is slower than zlib."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from benchmarks.proxy import Proxy
from bpudeploy.transfer.compress import PROBE, WARM_UP, CompressionPolicy, sample_ratio
from bpudeploy.transfer.send import send
from tests.transfer.conftest import Server

TEXT = b"".join(b"%d " % n for n in range(3_000_000))  # 23 MB, a third of it when compressed


@pytest.mark.parametrize(("seconds_per_mb", "expected"), [(1e-6, False), (10.0, True)])
def test_bytes_are_compressed_if_sending_them_takes_longer(seconds_per_mb: float, expected: bool) -> None:
    now = 0.0
    policy = CompressionPolicy(memoryview(TEXT), clock=lambda: now)
    decisions = []
    for sent in range(0, WARM_UP + PROBE + (4 << 20), 1 << 20):
        decisions.append(policy.compress_after(sent))
        now += seconds_per_mb
    assert not any(decisions[: (WARM_UP + PROBE) >> 20]), "the link is timed first"
    assert decisions[-1] is expected


def test_random_bytes_are_never_compressed() -> None:
    policy = CompressionPolicy(memoryview(os.urandom(1 << 20)), clock=iter(range(10**6)).__next__)
    assert not any(policy.compress_after(sent) for sent in range(0, 64 << 20, 1 << 20))


def test_samples_are_spread_over_the_data() -> None:
    half = os.urandom(1 << 20)
    assert 0.4 < sample_ratio(memoryview(half + bytes(1 << 20)))[0] < 0.6
    assert sample_ratio(memoryview(b"")) == (1.0, 0.0)


def test_on_a_slow_link_fewer_bytes_are_sent(server: Server, tmp_path: Path) -> None:
    local, remote = tmp_path / "l", tmp_path / "r"
    local.write_bytes(TEXT)
    with Proxy(server.port, rate=8e6) as proxy, server.reached(proxy.port) as board:
        sent = send(board, local, PurePosixPath(remote), step="push")
        assert remote.read_bytes() == TEXT
        assert proxy.up < sent.wire_bytes * 1.01 + 20_000
    assert sent.wire_bytes < 0.8 * len(TEXT)
