"""What a night judges: each metric with its unit, which way is worse, and where a measurement has it."""

from __future__ import annotations

from enum import StrEnum

from bpudeploy.nightly.series import Scale, Worse
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Caveat, Measurement
from bpudeploy.spec.suite import NightlyChecks

SPOIL = (Caveat.THROTTLED, Caveat.HOT, Caveat.REBOOTED)
"""With these a latency is that of the conditions: it is drawn, and never judged."""


class Metric(StrEnum):
    """One figure of a release on a board."""

    TOP1 = "top1"
    P50 = "p50"
    P99 = "p99"
    SIZE = "size"
    MEMORY = "memory"
    COMPILE_TIME = "compile_time"

    @property
    def unit(self) -> str:
        """The unit of its values."""
        return _UNITS[self]

    @property
    def words(self) -> str:
        """What it is called in a report."""
        return _TITLES[self]

    @property
    def scale(self) -> Scale:
        """Whether a change is told in percent of the value or in points."""
        return Scale.POINTS if self is Metric.TOP1 else Scale.RATIO

    @property
    def worse(self) -> Worse:
        """Which way is worse."""
        return Worse.LOWER if self is Metric.TOP1 else Worse.HIGHER

    @property
    def is_latency(self) -> bool:
        """Whether it depends on the board, its clocks and its temperature."""
        return self in (Metric.P50, Metric.P99)

    @property
    def is_of_board(self) -> bool:
        """Whether only a board can show it."""
        return self.is_latency or self is Metric.MEMORY

    @property
    def change_unit(self) -> str:
        """The unit of a change."""
        return "points" if self.scale is Scale.POINTS else "%"

    def of(self, m: Measurement) -> float | None:
        """Return its value in a measurement; None where that has none.

        What a simulator takes on this machine is no latency and no memory of a board.
        """
        if self.is_of_board and m.provenance is not Provenance.MEASURED:
            return None
        match self:
            case Metric.TOP1:
                return m.score.top1.value if m.score is not None else None
            case Metric.P50:
                return m.latency.p50_ms.value if m.latency is not None else None
            case Metric.P99:
                return m.latency.p99_ms.value if m.latency is not None and m.latency.p99_ms is not None else None
            case Metric.SIZE:
                return m.build.binary_bytes / 1e6 if m.build is not None else None
            case Metric.MEMORY:
                return m.peak_memory_mb
            case Metric.COMPILE_TIME:
                return m.build.compile_seconds if m.build is not None else None

    def at_least(self, checks: NightlyChecks) -> float | None:
        """Return the change below which a difference is nobody's concern; None where it is not judged."""
        limit: float | None = getattr(checks, self.value)
        return limit


def invalid(m: Measurement) -> bool:
    """Return whether a measurement's latencies are those of its conditions."""
    return any(caveat in SPOIL for caveat in m.caveats)


_UNITS = {
    Metric.TOP1: "%",
    Metric.P50: "ms",
    Metric.P99: "ms",
    Metric.SIZE: "MB",
    Metric.MEMORY: "MB",
    Metric.COMPILE_TIME: "s",
}
_TITLES = {
    Metric.TOP1: "top-1",
    Metric.P50: "p50 latency",
    Metric.P99: "p99 latency",
    Metric.SIZE: "size of the binary",
    Metric.MEMORY: "memory on the board",
    Metric.COMPILE_TIME: "compile time",
}
