"""The findings of a compilation, findings.json beside the binary."""

from __future__ import annotations

import re
from enum import StrEnum

from pydantic import Field

from bpudeploy.conformance.profile import FUSED, Layer, Profile, Subgraph
from bpudeploy.spec.frozen import Frozen

_INTERNAL = re.compile("^Hz(S?Quantized|S?Elementwise)?")
"""What the tool puts before the name of an operator that computes integers: HzSQuantizedConv, HzSElementwiseMul."""


class Unit(StrEnum):
    """A processor that runs a node. A node on none is folded into its neighbour."""

    BPU = "BPU"
    VPU = "VPU"
    SPU = "SPU"
    CPU = "CPU"


class PlacementRow(Frozen):
    """One row of the node table, as the tool prints it."""

    name: str
    """A long name is truncated in front, with "...", unless the full name is known."""
    op: str
    on: tuple[Unit, ...]
    """Empty: folded into a neighbour."""
    subgraph: int | None = None
    """The BPU subgraph; more than one means that CPU nodes split the network. hb_compile does not print it."""
    cosine: float | None = None
    """Similarity of its output to float: quantized for hb_mapper, calibrated for hb_compile."""
    quantized_cosine: float | None = None
    threshold: float | None = None
    dtype: str | None = None
    """As printed: int8, int8/int32 (in/out), si16, "f32,si32"."""


class OutputSimilarity(Frozen):
    """Similarity of one network output to float, over the tool's calibration images."""

    name: str
    cosine: float | None = None
    quantized_cosine: float | None = None
    l1: float | None = None
    l2: float | None = None
    chebyshev: float | None = None

    @property
    def worst(self) -> float | None:
        """The lowest printed cosine."""
        return min((c for c in (self.cosine, self.quantized_cosine) if c is not None), default=None)


class Port(Frozen):
    """An input or output of the binary, as hb_compile lists them."""

    name: str
    direction: str
    shape: tuple[int, ...]
    dtype: str


class LatencyEstimate(Frozen):
    """The compiler's estimate for one BPU subgraph. It excludes CPU nodes, so a board is slower."""

    subgraph: str
    latency_us: float
    fps: float | None = None
    ddr_bytes: int | None = None


class LogSummary(Frozen):
    """The parsed content of a log."""

    versions: dict[str, str] = Field(default_factory=dict)
    """Versions by part of the toolchain."""
    calibration_method: str | None = None
    calibration_images: int | None = None
    nodes: tuple[PlacementRow, ...] = ()
    outputs: tuple[OutputSimilarity, ...] = ()
    ports: tuple[Port, ...] = ()
    estimates: tuple[LatencyEstimate, ...] = ()
    warnings: tuple[str, ...] = ()
    """Lines about a node that lost its device or its precision; at most 100."""
    closing: tuple[str, ...] = ()
    """The success lines that were found."""
    unread_rows: int = 0
    """Lines inside a table that could not be parsed."""


def profile_of(told: LogSummary, subgraphs: tuple[Subgraph, ...], layers: tuple[Layer, ...]) -> Profile:
    """Return the profile of a binary, its layers with the operators that the log's table has."""
    ops = {row.name: _INTERNAL.sub("", row.op) for row in told.nodes}
    return Profile(
        total_us=sum(one.latency_us for one in told.estimates),
        layers=tuple(layer.model_copy(update={"op": ops.get(layer.name.removesuffix(FUSED), "")}) for layer in layers),
        subgraphs=subgraphs,
        on_cpu=tuple(row.name for row in told.nodes if Unit.CPU in row.on),
    )


class CompilerFindings(Frozen):
    """What a compilation reports beside its binary."""

    version: int = 2
    backend: str
    march: str
    tool: dict[str, str]
    """The tool in the cache key: its version, or its container's digest."""
    config: str
    """The YAML that the tool read."""
    told: LogSummary
    merged: tuple[str, ...] = ()
    """Nodes with a configured precision that the tool merged into a neighbour, whose precision they have."""

    differ: tuple[str, ...] = ()
    """Tensors whose threshold or precision is not that of the recipe's quantization."""
    subgraphs: tuple[Subgraph, ...] = ()
    layers: tuple[Layer, ...] = ()

    def profile(self) -> Profile:
        """Return the compiler's estimate, by layer if it wrote a table."""
        return profile_of(self.told, self.subgraphs, self.layers)

    def summary(self) -> tuple[str, ...]:
        """Return the main results in a few lines."""
        merged, differ = _counted(self.merged, _MERGED), _counted(self.differ, _DIFFER)
        lines = (_devices(self.told), _similarity(self.told), _latency(self.told, self.config), merged, differ)
        return tuple(line for line in (*lines, _counted(self.told.warnings, _WARNINGS)) if line)


_LEVEL = re.compile(r"^\s*optimize_level: \W*(O\d)", re.MULTILINE)
_MERGED = "nodes with a configured precision were merged into a neighbour"
_DIFFER = "tensors have another threshold or precision than quantize chose"
_WARNINGS = "warnings about a lost precision or device"


def _devices(log: LogSummary) -> str:
    if not log.nodes:
        return "the log has no readable node table"
    on_cpu = [n for n in log.nodes if Unit.CPU in n.on]
    folded = sum(not n.on for n in log.nodes)
    cuts = {n.subgraph for n in log.nodes if n.subgraph is not None}
    parts = [f"{len(log.nodes) - len(on_cpu) - folded} nodes on the BPU, {len(on_cpu)} on the CPU"]
    parts += [f"{folded} folded"] if folded else []
    parts += [f"{len(cuts)} BPU subgraph{'s' if len(cuts) != 1 else ''}"] if cuts else []
    return ", ".join(parts)


def _similarity(log: LogSummary) -> str:
    found = [(o.worst, o.name) for o in log.outputs if o.worst is not None]
    if not found:
        return ""
    cosine, name = min(found)
    how = f", calibrated by {log.calibration_method}" if log.calibration_method else ""
    return f"worst output cosine {cosine:.4f} ({name}){how}"


def _latency(log: LogSummary, config: str) -> str:
    if not log.estimates:
        return ""
    total, level = sum(e.latency_us for e in log.estimates) / 1000, _LEVEL.search(config)
    at = f" at {level[1]}" if level else ""  # another level gives another binary
    return f"compiler's estimate{at}, BPU only: {total:.3f} ms"


def _counted(found: tuple[str, ...], what: str) -> str:
    return f"{len(found)} {what}: {found[0]}{', ...' if len(found) > 1 else ''}" if found else ""
