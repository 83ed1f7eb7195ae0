"""All that was measured, over time: one page for people, one table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bpudeploy.digest import short
from bpudeploy.provenance import Provenance
from bpudeploy.results.drawing import Plot, page
from bpudeploy.results.history_plots import (
    accuracy_against_latency,
    board_of,
    distributions,
    newest_of,
    of_board,
    shown_of,
    with_latency,
)
from bpudeploy.results.measured_plots import layer_costs, temperatures
from bpudeploy.results.measurement import Interval, Measurement, Percentile
from bpudeploy.results.session import hottest

_Cell = str | int | float | None
_TOP_LAYERS = 15
_RUNS_IN_A_SPREADSHEET = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_WHERE = ("board", "board_id", "device", "runtime")
_OF_LATENCY = ("frames", "mean_ms", "std_ms", "min_ms", "max_ms", "fps")


def _spread(name: str) -> tuple[str, str, str]:
    """Return the columns of a value and of its interval."""
    return name, f"{name}_low", f"{name}_high"


_COLUMNS = (
    *("made", "session", "provenance", "recipe", "target", "march", "backend", "release", "binary"),
    *(*_WHERE, "batch", "rounds", "frames"),
    *(*_spread("p50_ms"), *_spread("p90_ms"), *_spread("p99_ms")),
    *("mean_ms", "std_ms", "min_ms", "max_ms", "fps", "streams_fps"),
    *(*_spread("predicted_ms"), *_spread("load_ms"), "images"),
    *(*_spread("top1_percent"), *_spread("top5_percent"), *_spread("as_host_percent")),
    *("hottest_c", "peak_memory_mb", "caveats"),
)


@dataclass(frozen=True)
class _Section:
    """Plots of one kind; those that have nothing to draw are only named."""

    plots: tuple[Plot, ...]
    words: str = ""
    bare: tuple[Plot, ...] = ()

    @classmethod
    def of(cls, plots: Sequence[Plot], words: str = "") -> _Section:
        return cls(tuple(p for p in plots if p.svg is not None), words, bare=tuple(p for p in plots if p.svg is None))


def write_history(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw ``measurements`` as one self-contained HTML page at ``path``, the newest first.

    Raises:
        OSError: it cannot be written.
    """
    found = sorted(measurements, key=_moment, reverse=True)
    measured = [m for m in found if m.provenance is Provenance.MEASURED]
    values = {
        "rows": [(m, of_board(m)) for m in found],
        "distributions": _latencies(found),
        "accuracy": _Section.of([accuracy_against_latency(found)]),
        "temperatures": _heat(measured),
        "layers": _layers(measured),
    }
    path.write_text(page("history.html.jinja", values), encoding="utf-8")


def _moment(m: Measurement) -> datetime:
    made = datetime.fromisoformat(m.made)
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _latencies(found: Sequence[Measurement]) -> _Section:
    shown, words = shown_of(with_latency(found), "measurements with a latency")
    return _Section.of(distributions(shown), words)


def _heat(measured: Sequence[Measurement]) -> _Section:
    shown, words = shown_of(newest_of(measured, board_of), "boards")
    plots = [replace(temperatures(m), title=f"{m.board}, {m.device}, {m.made[:16].replace('T', ' ')}") for m in shown]
    return _Section.of(plots, words)


def _layers(measured: Sequence[Measurement]) -> _Section:
    newest = newest_of(measured, lambda m: (m.subject.release, *board_of(m)))
    shown, words = shown_of(newest, "releases on a board")
    plots = [
        replace(
            layer_costs(m, _TOP_LAYERS), title=f"{m.subject.recipe} {short(m.subject.release)} on {m.board}, {m.device}"
        )
        for m in shown
    ]
    return _Section.of(plots, words)


def to_csv(measurements: Sequence[Measurement]) -> str:
    r"""Return a table with one row a measurement, in the order given; the first line names the columns.

    A value that is not known is an empty cell. Percentages are 0 to 100. Columns may be added behind the last one;
    these stay:

    ==========================================  ====================================================================
    made, session                               when it began (UTC, ISO 8601), and which ones ran in turns with it
    provenance                                  measured, simulated or predicted
    recipe, target, march, backend              what the release was made of and for
    release, binary                             digests
    board, board_id, device, runtime            where it ran
    batch, rounds, frames                       images a frame; how much was timed
    p50_ms, p90_ms, p99_ms                      of a frame on the board, each with _low and _high, a 95 % interval; an
                                                empty _high: too few frames bound it from above
    mean_ms, std_ms, min_ms, max_ms, fps        of the same frames; fps counts images
    streams_fps                                 ``4=812.5 [801.0 to 824.0]``: frames in flight, images/s, interval
    predicted_ms                                with _low and _high; of a prediction and of nothing else
    load_ms                                     with _low and _high
    images                                      of the evaluation set
    top1_percent, top5_percent                  each with _low and _high
    as_host_percent                             same best class as the host's integers, with _low and _high
    hottest_c, peak_memory_mb                   the most that any sensor said; of the runtime's process
    caveats                                     separated by blanks
    ==========================================  ====================================================================

    The dialect is that of RFC 4180. A text that a spreadsheet would take as a formula has a ``'`` before it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    for m in measurements:
        writer.writerow({name: _inert(cell) if isinstance(cell, str) else cell for name, cell in _row(m).items()})
    return text.getvalue()


def _row(m: Measurement) -> dict[str, _Cell]:
    row: dict[str, _Cell] = {name: getattr(m, name) for name in ("made", "session", *_WHERE, "batch")}
    row |= m.subject.model_dump() | {"provenance": m.provenance.value, "rounds": len(m.rounds)}
    latency, score = of_board(m), m.score
    spreads: dict[str, Interval | Percentile | None] = {"predicted_ms": m.predicted_ms, "load_ms": m.load_ms}
    if latency is not None:
        spreads |= {"p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms, "p99_ms": latency.p99_ms}
        row |= {name: getattr(latency, name) for name in _OF_LATENCY}
    if score is not None:
        spreads |= {"top1_percent": score.top1, "top5_percent": score.top5, "as_host_percent": score.as_host}
        row["images"] = score.images
    for name, value in spreads.items():
        if value is not None:
            row |= dict(zip(_spread(name), (value.value, value.low, value.high), strict=True))
    row["streams_fps"] = "; ".join(
        f"{one.streams}={one.fps.value:.6g} [{one.fps.low:.6g} to {one.fps.high:.6g}]" for one in m.throughput
    )
    row["hottest_c"] = hottest(m.conditions)
    return row | {"peak_memory_mb": m.peak_memory_mb, "caveats": " ".join(m.caveats)}


def _inert(text: str) -> str:
    """Return a text that no spreadsheet runs."""
    return f"'{text}" if text.lstrip().startswith(_RUNS_IN_A_SPREADSHEET) else text
