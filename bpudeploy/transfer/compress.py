"""Deciding whether zlib is worthwhile for these bytes on this link. Compiled models are often incompressible."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

LEVEL = 1
MAX_RATIO = 0.9
"""Compression ratio of a sample above which compression is never used."""
WARM_UP, PROBE = 6 << 20, 4 << 20
"""Uncompressed bytes sent before the link is timed (windows and socket buffers absorb them), and while it is timed."""
_SAMPLES, _SAMPLE = 16, 1 << 15


def sample_ratio(data: memoryview) -> tuple[float, float]:
    """Compress samples spread over ``data``; return compressed over original size, and the seconds per byte."""
    if not data:
        return 1.0, 0.0
    step = max(len(data) // _SAMPLES, _SAMPLE)
    samples = [bytes(data[at : at + _SAMPLE]) for at in range(0, len(data), step)]
    started = time.perf_counter()
    compressed = sum(len(zlib.compress(sample, LEVEL)) for sample in samples)
    size = sum(map(len, samples))
    return compressed / size, (time.perf_counter() - started) / size


class CompressionPolicy:
    """Decides once per transfer, after timing the link on the first pieces, whether to compress.

    Compression overlaps with sending, so it is worthwhile if a byte takes less time to compress than to send.
    """

    def __init__(self, data: memoryview, clock: Callable[[], float] = time.perf_counter) -> None:
        ratio, self._cost = sample_ratio(data)
        self._clock = clock
        self._decision = None if ratio < MAX_RATIO else False
        self._probe: tuple[float, int] | None = None

    def compress_after(self, sent: int) -> bool:
        """Return whether to compress what follows the first ``sent`` bytes."""
        if self._decision is None and sent >= WARM_UP:
            if self._probe is None:
                self._probe = self._clock(), sent
            since, already = self._probe
            if sent - already >= PROBE:
                self._decision = self._cost < (self._clock() - since) / (sent - already)
        return bool(self._decision)
