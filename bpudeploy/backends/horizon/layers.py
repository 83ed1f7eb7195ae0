"""The compiler's estimate by layer: ``layer details`` in the file ``SUBGRAPH.json`` beside the binary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpudeploy.backends.horizon.findings import LayerEstimate

_US = re.compile(r"([\d.]+) us\b")
_MOST_LAYERS = 100_000


def read_layers(folder: Path) -> tuple[LayerEstimate, ...]:
    """Return the layers of every BPU subgraph in ``folder``; none if the compiler wrote no table (``debug: false``)."""
    found: list[LayerEstimate] = []
    for file in sorted(folder.glob("*.json")):
        found += _layers(file.stem, json.loads(file.read_text(encoding="utf-8")))
    return tuple(found[:_MOST_LAYERS])


def _layers(subgraph: str, document: Any) -> Iterator[LayerEstimate]:
    summary = document.get("summary") if isinstance(document, dict) else None
    rows = summary.get("layer details", []) if isinstance(summary, dict) else []
    for row in rows[1:]:  # the first has the columns' names
        name, _, shape, aligned, computing, moving, *_ = row
        times = [_US.match(text) for text in (computing, moving)]
        if all(times):
            compute_us, transfer_us = (float(time[1]) for time in times if time)
            yield LayerEstimate(
                name=name,
                subgraph=subgraph,
                shape=_numbers(shape),
                aligned=_numbers(aligned),
                compute_us=compute_us,
                transfer_us=transfer_us,
            )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
