"""What a vendor's compiler told: findings.json beside the binary."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from bpudeploy.spec.frozen import Frozen


class Unit(StrEnum):
    """Where a node runs. A node on none is folded into its neighbour."""

    BPU = "BPU"
    VPU = "VPU"
    SPU = "SPU"
    CPU = "CPU"


class PlacementRow(Frozen):
    """One row of the node table, as the tool prints it."""

    name: str
    """A long name is cut in front, with "...", where nothing tells the whole."""
    op: str
    on: tuple[Unit, ...]
    """Empty: folded into a neighbour."""
    subgraph: int | None = None
    """The BPU subgraph; more than one means that CPU nodes cut the network. hb_compile does not print it."""
    cosine: float | None = None
    """Of this node's output against float: quantized for hb_mapper, calibrated for hb_compile."""
    quantized_cosine: float | None = None
    threshold: float | None = None
    dtype: str | None = None
    """As printed: int8, int8/int32 (in/out), si16, "f32,si32"."""


class OutputSimilarity(Frozen):
    """One output of the network against float, over the tool's own calibration images."""

    name: str
    cosine: float | None = None
    quantized_cosine: float | None = None
    l1: float | None = None
    l2: float | None = None
    chebyshev: float | None = None

    @property
    def worst(self) -> float | None:
        """The lowest cosine that was printed."""
        return min((c for c in (self.cosine, self.quantized_cosine) if c is not None), default=None)


class Port(Frozen):
    """An input or output of the binary, as hb_compile lists them."""

    name: str
    direction: str
    shape: tuple[int, ...]
    dtype: str


class LatencyEstimate(Frozen):
    """The compiler's own estimate of one BPU subgraph. CPU nodes count as nothing: no board takes this little."""

    subgraph: str
    latency_us: float
    fps: float | None = None
    ddr_bytes: int | None = None


class LogSummary(Frozen):
    """What a log says."""

    versions: dict[str, str] = Field(default_factory=dict)
    """Part of the toolchain to version."""
    calibration_method: str | None = None
    calibration_images: int | None = None
    nodes: tuple[PlacementRow, ...] = ()
    outputs: tuple[OutputSimilarity, ...] = ()
    ports: tuple[Port, ...] = ()
    estimates: tuple[LatencyEstimate, ...] = ()
    warnings: tuple[str, ...] = ()
    """Lines about a node that lost its place or its precision; at most 100."""
    closing: tuple[str, ...] = ()
    """The closing lines of success that were there."""
    unread_rows: int = 0
    """Lines inside a table that are no row of it."""


class CompilerFindings(Frozen):
    """Everything about one compilation that the binary does not show."""

    version: int = 1
    backend: str
    march: str
    tool: dict[str, str]
    """What the key holds of the tool: its version, or its container's digest."""
    config: str
    """The YAML that it was given."""
    told: LogSummary
    merged: tuple[str, ...] = ()
    """Nodes whose precision was asked for and that the tool merged into a neighbour: they have the neighbour's."""

    def summary(self) -> tuple[str, ...]:
        """Say in a few lines what matters."""
        lines = (_where(self.told), _near(self.told), _fast(self.told), _merged(self.merged), _warned(self.told))
        return tuple(line for line in lines if line)


def _where(told: LogSummary) -> str:
    if not told.nodes:
        return "the log has no node table that could be read"
    on_cpu = [n for n in told.nodes if Unit.CPU in n.on]
    folded = sum(not n.on for n in told.nodes)
    cuts = {n.subgraph for n in told.nodes if n.subgraph is not None}
    parts = [f"{len(told.nodes) - len(on_cpu) - folded} nodes on the BPU, {len(on_cpu)} on the CPU"]
    parts += [f"{folded} folded"] if folded else []
    parts += [f"{len(cuts)} BPU subgraph{'s' if len(cuts) != 1 else ''}"] if cuts else []
    return ", ".join(parts)


def _near(told: LogSummary) -> str:
    found = [(o.worst, o.name) for o in told.outputs if o.worst is not None]
    if not found:
        return ""
    cosine, name = min(found)
    how = f", calibrated by {told.calibration_method}" if told.calibration_method else ""
    return f"worst output cosine {cosine:.4f} ({name}){how}"


def _fast(told: LogSummary) -> str:
    if not told.estimates:
        return ""
    total = sum(e.latency_us for e in told.estimates) / 1000
    return f"estimated by the compiler, for the BPU only: {total:.3f} ms"


def _merged(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f"{len(names)} nodes with a precision of their own are merged into a neighbour: {_first(names)}"


def _warned(told: LogSummary) -> str:
    if not told.warnings:
        return ""
    return f"{len(told.warnings)} warnings of a lost precision or place: {_first(told.warnings)}"


def _first(found: tuple[str, ...]) -> str:
    return f"{found[0]}{', ...' if len(found) > 1 else ''}"
