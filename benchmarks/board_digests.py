"""What a board's standard library can digest: content-defined chunks, or blocks at fixed places.

python -m benchmarks.board_digests
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable

from bpudeploy.transfer.receiver import BLOCK, block_digest

SIZE = 4_000_000


def gear(data: bytes) -> list[bytes]:
    """Cut with FastCDC's gear hash (4 KB on average, 1 to 16 KB) in plain Python, as a board would have to."""
    rng = random.Random(0)
    table = [rng.getrandbits(32) for _ in range(256)]
    digests, start = [], 0
    while start < len(data):
        value, end = 0, min(start + 16 * 1024, len(data))
        at = start + 1024
        while at < end:
            value = ((value << 1) + table[data[at]]) & 0xFFFFFFFF
            at += 1
            if not value & 0xFFF00000:
                break
        digests.append(hashlib.sha256(data[start:at]).digest()[:6])
        start = at
    return digests


def blocks(data: bytes) -> list[bytes]:
    """Digest blocks at fixed places, as our script does."""
    return [block_digest(data[at : at + BLOCK]) for at in range(0, len(data) - BLOCK + 1, BLOCK)]


def main() -> None:
    """Print MB/s, the best of three."""
    data = os.urandom(SIZE)
    ways: dict[str, Callable[[bytes], list[bytes]]] = {"gear chunks": gear, "fixed blocks": blocks}
    for name, way in ways.items():
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            way(data)
            best = min(best, time.perf_counter() - started)
        print(f"{name}: {SIZE / best / 1e6:.1f} MB/s")


if __name__ == "__main__":
    main()
