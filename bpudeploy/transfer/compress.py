"""Whether zlib pays: for these bytes, on this link. Compiled models and weights are often incompressible."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

LEVEL = 1
PAYS_BELOW = 0.9
"""The compressed share of a sample above which it is never worth the while."""
WARM_UP, PROBE = 6 << 20, 4 << 20
"""Bytes sent as they are before the link is timed (the window and the sockets take them), and while it is."""
_SAMPLES, _SAMPLE = 16, 1 << 15


def sampled(data: memoryview) -> tuple[float, float]:
    """Return the compressed share of samples spread over ``data``, and the seconds per byte that it took."""
    if not data:
        return 1.0, 0.0
    step = max(len(data) // _SAMPLES, _SAMPLE)
    samples = [bytes(data[at : at + _SAMPLE]) for at in range(0, len(data), step)]
    started = time.perf_counter()
    small = sum(len(zlib.compress(sample, LEVEL)) for sample in samples)
    size = sum(map(len, samples))
    return small / size, (time.perf_counter() - started) / size


class Pays:
    """Answers for one transfer: it times the link on the first pieces, and decides once.

    Compressing goes on while a window's worth of bytes is on its way, so it pays when a byte takes less time
    to compress than to send.
    """

    def __init__(self, data: memoryview, clock: Callable[[], float] = time.perf_counter) -> None:
        share, self._cost = sampled(data)
        self._clock = clock
        self._answer = None if share < PAYS_BELOW else False
        self._probe: tuple[float, int] | None = None

    def after(self, sent: int) -> bool:
        """Tell whether what follows ``sent`` bytes, which are on their way, should be compressed."""
        if self._answer is None and sent >= WARM_UP:
            if self._probe is None:
                self._probe = self._clock(), sent
            since, already = self._probe
            if sent - already >= PROBE:
                self._answer = self._cost < (self._clock() - since) / (sent - already)
        return bool(self._answer)
