"""What hb_mapper's quant_info.json says beside the log: the whole names of the nodes that are left."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from bpudeploy.backends.horizon.findings import PlacementRow

_CUT = "..."


def quantized_names(path: Path) -> frozenset[str]:
    """Return the names of the nodes that the tool calibrated; none where the file is not as it was in 1.24.3."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    return frozenset(found) if isinstance(found, dict) else frozenset()


def with_full_name(node: PlacementRow, names: Collection[str]) -> PlacementRow:
    """Return a row of the node table with its whole name, where exactly one node ends like it."""
    if not node.name.startswith(_CUT):
        return node
    ends = [name for name in names if name.endswith(node.name.removeprefix(_CUT))]
    return node.model_copy(update={"name": ends[0]}) if len(ends) == 1 else node


def merged_nodes(asked: Iterable[str], names: Collection[str]) -> tuple[str, ...]:
    """Return the nodes of node_info that are no longer there, neither by name nor in parts (``NAME_...``).

    The tool takes node_info for a node that is not there without a word, and such a node is normal: a Relu after a
    Conv, the inner nodes of a GELU.
    """
    if not names:
        return ()
    return tuple(n for n in asked if n not in names and not any(left.startswith(f"{n}_") for left in names))
