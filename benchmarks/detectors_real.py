"""The detectors on public real series whose steps somebody has named: what each finds, seen whole.

    python -m benchmarks.detectors_real

Two series are anecdotes, not a proof: whoever drew their truth had no protocol. See ``benchmarks.detectors`` for where
it runs, and detectors_real.json for the sources.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from benchmarks.detectors_peers import chosen, defaults
from bpudeploy.nightly.series import Point, Scale, Series

DATA = Path(__file__).with_name("detectors_real.json")


class Real(BaseModel):
    """A series with its source, and where its steps are said to be."""

    name: str
    source: str
    truth: str
    steps: list[int]
    values: list[float]


def series(one: Real) -> Series:
    """Return it as if a value had been measured each night."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    points = tuple(Point(start + timedelta(days=night), value, "a") for night, value in enumerate(one.values))
    return Series(points, Scale.RATIO, higher_is_worse=True, at_least=1.0)


def main() -> None:
    """Print a table for each series."""
    for one in TypeAdapter(list[Real]).validate_json(DATA.read_bytes()):
        print(f"\n{one.name}, {len(one.values)} values: {one.truth}. Source: {one.source}.\n")
        print("| detector | changes begin at |\n|---|---|")
        for detector in [*defaults(), *chosen()]:
            found = sorted({found.first for found in detector.detect(series(one))})
            print(f"| {detector.family} ({detector.setting}) | {', '.join(map(str, found)) or 'none'} |")


if __name__ == "__main__":
    main()
