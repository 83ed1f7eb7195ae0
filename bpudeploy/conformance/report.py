"""The placement of a graph on a march, per node and in total. Counts come from shapes; none of them is a time."""

from __future__ import annotations

from enum import StrEnum

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March

Shape = tuple[int, ...] | None


class Device(StrEnum):
    """Where a node runs."""

    BPU = "BPU"
    CPU = "CPU"
    UNSUPPORTED = "unsupported"  # on neither device: the compiler refuses the model
    UNKNOWN = "unknown"  # no public information
    FOLDED = "folded"  # constant-folded by the compiler


class Form(StrEnum):
    """Which form of the network is inspected."""

    RESTRUCTURED = "restructured"
    ORIGINAL = "original"


class Fix(StrEnum):
    """What could move a node to the BPU."""

    RESTRUCTURE = "restructure"
    COMPILER_OPTION = "ask the compiler"
    NONE = "none known"


class Hint(Frozen):
    """What would help one node."""

    fix: Fix
    text: str


class Cost(Frozen):
    """Counted from shapes, not a time. Bytes are at int8, also of weights and biases.

    ``element_ops`` counts the values that a node without multiply-accumulates computes or compares.
    """

    macs: int = 0
    element_ops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f: getattr(self, f) + getattr(other, f) for f in type(self).model_fields})


class NodePlacement(Frozen):
    """One node: device, reason, source and cost. ``segment`` counts BPU subgraphs from 0."""

    name: str
    scope: str
    op: str
    inputs: tuple[Shape, ...]
    """Shapes of the feature maps; constants are in ``cost.weight_bytes``."""
    outputs: tuple[Shape, ...]
    device: Device
    reason: str
    not_checked: tuple[str, ...] = ()
    """Limits that the graph alone cannot decide."""
    dtypes: tuple[str, ...] = ()
    source: str
    confidence: str
    hint: Hint | None = None
    cost: Cost
    segment: int | None = None
    takes_over: int = 0
    """How many tensors it reads from the other device."""

    @property
    def bpu_on_request(self) -> bool:
        """Whether a compiler option moves it to the BPU."""
        return self.hint is not None and self.hint.fix is Fix.COMPILER_OPTION


class DeviceTotal(Frozen):
    """All nodes on one device."""

    device: Device
    nodes: int
    cost: Cost


class HintSummary(Frozen):
    """One hint with all the nodes that it would help; ``segments_after`` if that can be counted."""

    fix: Fix
    text: str
    ops: tuple[str, ...]
    nodes: int
    segments_after: int | None


class Partitioning(Frozen):
    """How the graph is split. A tensor that changes the device is written to and read from DDR.

    A node of unknown device counts as off the BPU; for ``_at_best``, as on it.
    """

    segments: int
    segments_at_best: int
    handovers: int
    handovers_at_best: int
    handover_bytes: int


class Placement(Frozen):
    """A graph on a march: predicted, or as the vendor's checker places it (``asked``)."""

    march: March
    board: str
    form: Form
    nodes: tuple[NodePlacement, ...]
    totals: tuple[DeviceTotal, ...]
    """One per device that has nodes."""
    cuts: Partitioning
    model_findings: tuple[str, ...]
    """What the compiler would report about the model as a whole."""
    helps: tuple[HintSummary, ...]
    notes: tuple[str, ...]
    asked: bool = False

    def total(self, device: Device) -> DeviceTotal:
        """Return the total of one device; zeros if it has no node."""
        empty = DeviceTotal(device=device, nodes=0, cost=Cost())
        return next((t for t in self.totals if t.device is device), empty)

    @property
    def cost(self) -> Cost:
        """The total of all nodes that are not folded."""
        return sum((t.cost for t in self.totals if t.device is not Device.FOLDED), Cost())

    @property
    def macs_on_bpu(self) -> float | None:
        """Percent of all multiply-accumulates; None if there are none."""
        return 100 * self.total(Device.BPU).cost.macs / self.cost.macs if self.cost.macs else None


class Inspection(Frozen):
    """One graph on one target; ``origin`` describes where the graph comes from."""

    model: str
    origin: str
    target: str
    placement: Placement
