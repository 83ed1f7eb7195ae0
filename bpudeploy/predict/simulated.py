"""The report of a simulated compile: the partition of the graph on the march, and the predicted latency."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bpudeploy.predict.estimate import Estimate
from bpudeploy.predict.workload import Workload
from bpudeploy.spec.frozen import Frozen

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.simulated"


class GraphPart(Frozen):
    """Nodes that run together: one BPU subgraph, or the CPU."""

    segment: int | None
    """The subgraph number from 0; None for the CPU."""
    nodes: tuple[str, ...]


class SimulationReport(Frozen):
    """A network on a simulated march: outputs are computed by onnxruntime, latency is predicted."""

    provenance: Literal["simulated"] = "simulated"
    parts: tuple[GraphPart, ...]
    estimate: Estimate

    @classmethod
    def of(cls, workload: Workload, estimate: Estimate) -> SimulationReport:
        """Group the nodes by subgraph, in graph order, those on the CPU last."""
        nodes = sorted(workload.nodes, key=lambda n: (n.segment is None, n.segment or 0))
        parts = ((s, tuple(n.name for n in part)) for s, part in groupby(nodes, key=lambda n: n.segment))
        return cls(parts=tuple(GraphPart(segment=s, nodes=names) for s, names in parts), estimate=estimate)

    def write(self, model: onnx.ModelProto) -> None:
        """Store the report in the metadata of ``model``."""
        model.metadata_props.add(key=KEY, value=self.model_dump_json())

    @classmethod
    def read(cls, path: Path) -> SimulationReport:
        """Read the report written beside a simulated binary."""
        return cls.model_validate_json(path.read_bytes())
