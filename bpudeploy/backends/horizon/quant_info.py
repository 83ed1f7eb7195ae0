"""hb_mapper's quant_info.json: the full names of the nodes that are left after its optimizer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from bpudeploy.backends.horizon.findings import PlacementRow

_CUT = "..."


def quantized_names(path: Path) -> frozenset[str]:
    """Return the names of the calibrated nodes; none if the file is not in the format of 1.24.3."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    return frozenset(found) if isinstance(found, dict) else frozenset()


def with_full_name(row: PlacementRow, names: Collection[str]) -> PlacementRow:
    """Return a row with its truncated name completed, if exactly one name has that end."""
    if not row.name.startswith(_CUT):
        return row
    ends = [name for name in names if name.endswith(row.name.removeprefix(_CUT))]
    return row.model_copy(update={"name": ends[0]}) if len(ends) == 1 else row


def is_part_of(found: str, node: str) -> bool:
    """Return whether the tool's name ``found`` is the node ``node`` or a part of it (``NODE_...``)."""
    return found == node or found.startswith(f"{node}_")


def merged_nodes(configured: Iterable[str], names: Collection[str]) -> tuple[str, ...]:
    """Return the nodes of node_info that are gone, whole and in parts.

    The tool ignores them silently, which is normal: a Relu after a Conv, the inner nodes of a GELU.
    """
    return tuple(n for n in configured if names and not any(is_part_of(name, n) for name in names))
