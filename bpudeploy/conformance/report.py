"""What is known of a graph on a march, node by node and in sum. Counts come from shapes; none of them is a time."""

from __future__ import annotations

from enum import StrEnum

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March

Shape = tuple[int, ...] | None


class Device(StrEnum):
    """Where a node would run."""

    BPU = "BPU"
    CPU = "CPU"
    UNSUPPORTED = "unsupported"  # on neither: the compiler refuses the model
    UNKNOWN = "unknown"  # nothing public says
    FOLDED = "folded"  # computed once, when compiling: it depends on no input


class Form(StrEnum):
    """Which form of the network is looked at."""

    RESTRUCTURED = "restructured"
    ORIGINAL = "original"


class Fix(StrEnum):
    """What could move a node to the BPU."""

    RESTRUCTURE = "restructure"
    ASK = "ask the compiler"
    NONE = "none known"


class Hint(Frozen):
    """What would help one node, in words."""

    fix: Fix
    text: str


class Cost(Frozen):
    """Counted from shapes, not a time. Bytes are of int8, weights and biases too.

    ``element_ops`` are the numbers that a node without multiply-accumulates computes or compares.
    """

    macs: int = 0
    element_ops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f: getattr(self, f) + getattr(other, f) for f in type(self).model_fields})


class NodePlacement(Frozen):
    """One node: where, why, who says so, at what cost. ``segment`` counts BPU subgraphs from 0."""

    name: str
    scope: str
    op: str
    inputs: tuple[Shape, ...]
    """Of what depends on the network's input; constants are in ``cost.weight_bytes``."""
    outputs: tuple[Shape, ...]
    device: Device
    reason: str
    not_checked: tuple[str, ...] = ()
    """Limits that are given in words or lack a fact: neither kept nor broken as far as we know."""
    dtypes: tuple[str, ...] = ()
    source: str
    confidence: str
    hint: Hint | None = None
    cost: Cost
    segment: int | None = None
    takes_over: int = 0
    """How many tensors it reads that were made on the other side of a cut."""

    @property
    def can_be_asked(self) -> bool:
        """Whether the compiler puts it on the BPU where it is asked to."""
        return self.hint is not None and self.hint.fix is Fix.ASK


class DeviceTotal(Frozen):
    """All nodes on one device."""

    device: Device
    nodes: int
    cost: Cost


class Help(Frozen):
    """One hint with all the nodes that it would help; ``segments_after`` where that can be counted."""

    fix: Fix
    text: str
    ops: tuple[str, ...]
    nodes: int
    segments_after: int | None


class Cuts(Frozen):
    """How the graph falls apart. A tensor that changes the device is written to and read from DDR.

    A node of unknown device counts as off the BPU; ``_at_best`` as on it.
    """

    segments: int
    segments_at_best: int
    handovers: int
    handovers_at_best: int
    handover_bytes: int


class Placement(Frozen):
    """A graph on a march, before any compiler has seen it, or as its compiler places it (``asked``)."""

    march: March
    board: str
    form: Form
    nodes: tuple[NodePlacement, ...]
    totals: tuple[DeviceTotal, ...]
    """One for every device that has nodes."""
    cuts: Cuts
    model_findings: tuple[str, ...]
    """What the compiler would say of the model as a whole."""
    helps: tuple[Help, ...]
    notes: tuple[str, ...]
    asked: bool = False

    def total(self, device: Device) -> DeviceTotal:
        """Return the sum of one device, zeros where it has no node."""
        empty = DeviceTotal(device=device, nodes=0, cost=Cost())
        return next((t for t in self.totals if t.device is device), empty)

    @property
    def cost(self) -> Cost:
        """The sum of all nodes that run."""
        return sum((t.cost for t in self.totals if t.device is not Device.FOLDED), Cost())

    @property
    def macs_on_bpu(self) -> float | None:
        """Percent of all multiply-accumulates, None where there are none."""
        return 100 * self.total(Device.BPU).cost.macs / self.cost.macs if self.cost.macs else None


class Inspection(Frozen):
    """One graph on one target; ``origin`` says what the graph is made of."""

    model: str
    origin: str
    target: str
    placement: Placement
