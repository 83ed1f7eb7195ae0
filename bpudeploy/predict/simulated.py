"""What a simulator's binary says of itself: how the march would cut the graph, and how long it is predicted to take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bpudeploy.predict.price import Estimate
from bpudeploy.predict.work import Workload
from bpudeploy.spec.frozen import Frozen

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.simulated"


class Part(Frozen):
    """Nodes that would run together: one BPU subgraph, or the board's CPU."""

    segment: int | None
    """Counted from 0; None is the CPU."""
    nodes: tuple[str, ...]


class Simulated(Frozen):
    """A network on a simulated march: its numbers are computed by onnxruntime, its latency is predicted."""

    provenance: Literal["simulated"] = "simulated"
    parts: tuple[Part, ...]
    estimate: Estimate

    @classmethod
    def of(cls, work: Workload, estimate: Estimate) -> Simulated:
        """Put the nodes of each subgraph together, in the graph's order, the CPU's last."""
        found: dict[int | None, list[str]] = {}
        for node in work.nodes:
            found.setdefault(node.segment, []).append(node.name)
        order = sorted(found, key=lambda s: (s is None, s or 0))
        return cls(parts=tuple(Part(segment=s, nodes=tuple(found[s])) for s in order), estimate=estimate)

    def write(self, model: onnx.ModelProto) -> None:
        """Put this into ``model``'s metadata."""
        model.metadata_props.add(key=KEY, value=self.model_dump_json())

    @classmethod
    def read(cls, path: Path) -> Simulated:
        """Read what a simulator's compile wrote beside its binary."""
        return cls.model_validate_json(path.read_bytes())
