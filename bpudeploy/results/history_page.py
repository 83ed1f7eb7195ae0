"""The history of all measurements: an HTML page, and a CSV table for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bpudeploy.digest import short
from bpudeploy.provenance import Provenance
from bpudeploy.results.drawing import Plot, page
from bpudeploy.results.history_plots import (
    accuracy_against_latency,
    board_key,
    distributions,
    first_per_key,
    measured_latency,
    newest,
    with_latency,
)
from bpudeploy.results.measured_plots import layer_costs, temperatures
from bpudeploy.results.measurement import Interval, Measurement, Percentile
from bpudeploy.results.session import hottest

_TOP_LAYERS = 15
_FORMULA_PREFIXES = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_WHERE = ("board", "board_id", "device", "runtime")
_LATENCY = ("frames", "mean_ms", "std_ms", "min_ms", "max_ms", "fps")


def _spread(name: str) -> tuple[str, str, str]:
    """Return the columns of a value and its interval."""
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


def write_history(measurements: Sequence[Measurement], path: Path) -> None:
    """Write ``measurements``, newest first, as one self-contained HTML page.

    Raises:
        OSError: it cannot be written.
    """
    found = sorted(measurements, key=_time, reverse=True)
    measured = [m for m in found if m.provenance is Provenance.MEASURED]
    values = {
        "rows": [(m, measured_latency(m)) for m in found],
        "distributions": _distributions(found),
        "accuracy": _section([accuracy_against_latency(found)]),
        "temperatures": _temperatures(measured),
        "layers": _layers(measured),
    }
    path.write_text(page("history.html.jinja", values), encoding="utf-8")


def _section(plots: Sequence[Plot], note: str = "") -> Mapping[str, object]:
    """Return the plots of a section, those without data separately, and the note above them."""
    drawn = [p for p in plots if p.svg is not None]
    return {"plots": drawn, "empty": [p for p in plots if p.svg is None], "note": note}


def _time(m: Measurement) -> datetime:
    made = datetime.fromisoformat(m.made)
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _distributions(found: Sequence[Measurement]) -> Mapping[str, object]:
    shown, note = newest(with_latency(found), "measurements with a latency")
    return _section(distributions(shown), note)


def _temperatures(measured: Sequence[Measurement]) -> Mapping[str, object]:
    shown, note = newest(first_per_key(measured, board_key), "boards")
    titles = [f"{m.board}, {m.device}, {m.made[:16].replace('T', ' ')}" for m in shown]
    return _section([replace(temperatures(m), title=t) for m, t in zip(shown, titles, strict=True)], note)


def _layers(measured: Sequence[Measurement]) -> Mapping[str, object]:
    per_release = first_per_key(measured, lambda m: (m.subject.release, *board_key(m)))
    shown, note = newest(per_release, "releases on a board")
    titles = [f"{m.subject.recipe} {short(m.subject.release)} on {m.board}, {m.device}" for m in shown]
    plots = [replace(layer_costs(m, _TOP_LAYERS), title=t) for m, t in zip(shown, titles, strict=True)]
    return _section(plots, note)


def to_csv(measurements: Sequence[Measurement]) -> str:
    r"""Return a table with one row per measurement, in the given order, and a header.

    Unknown values are empty cells. Percentages are 0 to 100. New columns are only added at the end:

    ==========================================  ====================================================================
    made, session                               start (UTC, ISO 8601); equal for interleaved measurements
    provenance                                  measured, simulated or predicted
    recipe, target, march, backend              what the release was built from and for
    release, binary                             digests
    board, board_id, device, runtime            where it was measured
    batch, rounds, frames                       images per frame; what was timed
    p50_ms, p90_ms, p99_ms                      per frame on the board, with _low and _high of the 95 % interval; an
                                                empty _high: too few frames for an upper bound
    mean_ms, std_ms, min_ms, max_ms, fps        of the same frames; fps: images per second
    streams_fps                                 ``4=812.5 [801.0 to 824.0]``: frames in flight, images/s, interval
    predicted_ms                                with _low and _high; only for predictions
    load_ms                                     with _low and _high
    images                                      in the evaluation set
    top1_percent, top5_percent                  each with _low and _high
    as_host_percent                             same top-1 class as the host's integer reference, with _low and _high
    hottest_c, peak_memory_mb                   maximum of all sensors; of the runtime's process
    caveats                                     separated by spaces
    ==========================================  ====================================================================

    The dialect is RFC 4180. Text that a spreadsheet would evaluate as a formula is prefixed with ``'``.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    for m in measurements:
        writer.writerow({name: _escaped(cell) if isinstance(cell, str) else cell for name, cell in _row(m).items()})
    return text.getvalue()


def _row(m: Measurement) -> dict[str, str | int | float | None]:
    row: dict[str, str | int | float | None] = {
        name: getattr(m, name) for name in ("made", "session", *_WHERE, "batch")
    }
    row |= m.subject.model_dump() | {"provenance": m.provenance.value, "rounds": len(m.rounds)}
    latency, score = measured_latency(m), m.score
    spreads: dict[str, Interval | Percentile | None] = {"predicted_ms": m.predicted_ms, "load_ms": m.load_ms}
    if latency is not None:
        spreads |= {"p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms, "p99_ms": latency.p99_ms}
        row |= {name: getattr(latency, name) for name in _LATENCY}
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


def _escaped(text: str) -> str:
    """Return ``text`` so that no spreadsheet evaluates it as a formula."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA_PREFIXES) else text
