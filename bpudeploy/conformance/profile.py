"""What a compiler says of its binary's layers: its own static estimate, not a measurement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import prod

from bpudeploy.spec.frozen import Frozen

MOVE = "move"
"""The kind of a layer that only rearranges values, by the compiler's choice or the network's."""
FUSED = "-conv"
"""What the compiler adds to the name of a convolution that it fused with the nodes after it."""
_MOVES = ("LayoutConvert", "Requantize", "_transposed", "Reshape", "Transpose", "Concat", "Slice", "Split", "Pad")


class Layer(Frozen):
    """One layer. Layers overlap in time: their sum may exceed the latency.

    ``name``: the node of the network. ``op``: its operator; empty if the compiler added the layer. ``shape``: its
    output (N, H, W, C); ``aligned``: as the accelerator stores it, with padding.
    """

    name: str
    op: str = ""
    subgraph: str
    shape: tuple[int, ...]
    aligned: tuple[int, ...]
    operations: int
    """Additions and multiplications."""
    compute_us: float
    transfer_us: float
    """Loading and storing."""
    start_us: float
    end_us: float

    @property
    def kind(self) -> str:
        """Its operator, or ``MOVE``."""
        moves = any(part in (self.op or self.name) for part in _MOVES)
        return MOVE if moves else self.op or "other"

    @property
    def time_us(self) -> float:
        """What it takes alone: computing and DDR overlap."""
        return max(self.compute_us, self.transfer_us)

    @property
    def padding(self) -> float:
        """The share of ``aligned`` that is padding."""
        return 1.0 - prod(self.shape) / max(prod(self.aligned), 1) if self.aligned else 0.0

    @property
    def bound(self) -> str:
        """What takes longer: "compute" or "DDR"."""
        return "DDR" if self.transfer_us > self.compute_us else "compute"


class Subgraph(Frozen):
    """One part of the binary that runs without the CPU, and its use of the accelerator over time.

    ``utilization``, ``loading`` and ``storing`` have one value for each ``interval_us``: the share of time in which
    the computing units are busy, and MB/s.
    """

    name: str
    latency_us: float
    operations: int
    loaded_bytes: int
    stored_bytes: int
    interval_us: float
    utilization: tuple[float, ...]
    loading: tuple[float, ...]
    storing: tuple[float, ...]


class Profile(Frozen):
    """A binary's layers and parts. ``on_cpu``: nodes that the CPU runs, whose time is not in ``total_us``."""

    total_us: float
    layers: tuple[Layer, ...] = ()
    subgraphs: tuple[Subgraph, ...] = ()
    on_cpu: tuple[str, ...] = ()

    def nodes(self) -> dict[str, float]:
        """Return the computing time by node of the network, in microseconds; nodes that were merged are missing."""
        return _sums((layer.name.removesuffix(FUSED), layer.compute_us) for layer in self.layers)

    def kinds(self) -> dict[str, float]:
        """Return the time by kind of layer, in microseconds, the longest first."""
        found = _sums((layer.kind, layer.time_us) for layer in self.layers)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for name, value in pairs:
        found[name] += value
    return dict(found)
