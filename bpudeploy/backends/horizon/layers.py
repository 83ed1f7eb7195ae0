"""The compiler's estimate by layer and over time: ``summary`` in the file ``SUBGRAPH.json`` beside the binary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpudeploy.conformance.profile import Layer, Subgraph

_LESS_THAN_1_US = 0.5
_MOST_LAYERS = 100_000
_MOST_INTERVALS = 100_000


def read_profiles(folder: Path) -> tuple[tuple[Subgraph, ...], tuple[Layer, ...]]:
    """Return the BPU subgraphs in ``folder`` and their layers; no layers if the compiler wrote no table
    (``debug: false``).
    """
    subgraphs: list[Subgraph] = []
    layers: list[Layer] = []
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        summary = document.get("summary") if isinstance(document, dict) else None
        if isinstance(summary, dict) and "latency (us)" in summary:
            subgraphs.append(_subgraph(file.stem, summary))
            layers += _layers(file.stem, summary.get("layer details", []))
    return tuple(subgraphs), tuple(layers[:_MOST_LAYERS])


def _subgraph(name: str, summary: dict[str, Any]) -> Subgraph:
    def series(key: str) -> tuple[float, ...]:
        return tuple(float(value) for value in summary.get(key, [])[:_MOST_INTERVALS])

    return Subgraph(
        name=name,
        latency_us=float(summary["latency (us)"]),
        operations=int(summary.get("BPU OPs per frame (effective)", 0)),
        loaded_bytes=int(summary.get("loaded bytes per frame", 0)),
        stored_bytes=int(summary.get("stored bytes per frame", 0)),
        interval_us=1e3 * float(summary.get("interval time (ms)", 0)),
        utilization=series("interval computing unit utilization"),
        loading=series("interval loading bandwidth (megabytes/s)"),
        storing=series("interval storing bandwidth (megabytes/s)"),
    )


def _layers(subgraph: str, rows: list[list[str]]) -> Iterator[Layer]:
    for row in rows[1:]:  # the first has the columns' names
        name, operations, shape, aligned, computing, moving, active = row
        start, _, end = active.partition("~")
        yield Layer(
            name=name,
            subgraph=subgraph,
            shape=_numbers(shape),
            aligned=_numbers(aligned),
            operations=int(operations.replace(",", "")),
            compute_us=_us(computing),
            transfer_us=_us(moving),
            start_us=_us(start),
            end_us=_us(end),
        )


def _us(text: str) -> float:
    """Return the first number of "16 us (3.7% of model)", "<1 us", "34 " or "0"."""
    found = re.match(r"\s*(<?)([\d.]+)", text)
    if found is None:
        return 0.0
    return _LESS_THAN_1_US if found[1] else float(found[2])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
