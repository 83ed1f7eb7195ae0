"""Compare the time that the model of a march predicts for each node with the compiler's estimate of the binary."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bpudeploy.conformance.profile import Profile
from bpudeploy.predict.estimate import estimate_latency
from bpudeploy.predict.march import MarchModel
from bpudeploy.predict.workload import count_workload
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import PrecisionRules

if TYPE_CHECKING:
    import onnx


class NodeComparison(Frozen):
    """One node of the compiled graph. ``compiler_us`` is None if the binary has it on the CPU."""

    name: str
    op: str
    predicted_us: float
    predicted_on_cpu: bool
    compiler_us: float | None

    @property
    def elsewhere(self) -> bool:
        """Whether the binary has it on another device than predicted."""
        return self.predicted_on_cpu is not (self.compiler_us is None)

    @property
    def difference_us(self) -> float:
        """What the compiler's estimate is longer; 0 on the CPU, which it does not estimate."""
        return 0.0 if self.compiler_us is None else self.compiler_us - self.predicted_us


def compare_nodes(
    profile: Profile, graph: onnx.ModelProto, int16: Collection[str], model: MarchModel, rules: PrecisionRules
) -> tuple[NodeComparison, ...]:
    """Compare node by node, what differs most first.

    Nodes that the compiler merged with others are left out, and so are layers that it added.

    Args:
        graph: the float graph that was compiled.
        int16: the products that read int16.
    """
    predicted = estimate_latency(count_workload(graph, model.march, model.array), model, rules, promoted=int16)
    times, on_cpu = profile.nodes(), frozenset(profile.on_cpu)
    found = [
        NodeComparison(
            name=node.name,
            op=node.op,
            predicted_us=1e3 * node.predicted_ms,
            predicted_on_cpu=not node.on_bpu,
            compiler_us=None if node.name in on_cpu else times[node.name],
        )
        for node in predicted.nodes
        if node.name in times or node.name in on_cpu
    ]
    return tuple(sorted(found, key=lambda node: (not node.elsewhere, -abs(node.difference_us), node.name)))
