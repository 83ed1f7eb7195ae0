"""Where the vendor's checker put the nodes of small networks: data in ``measured/``, from ``benchmarks.operators``."""

from __future__ import annotations

from functools import cache
from importlib import resources

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March


class PlacementCounts(Frozen):
    """How many nodes of one signature the checker put on each device; ``fused`` ones are part of a neighbour."""

    bpu: int = 0
    cpu: int = 0
    fused: int = 0

    @property
    def on_cpu(self) -> bool | None:
        """Whether they run on the CPU; None if that depends on sizes or neighbours."""
        if self.cpu and (self.bpu or self.fused):
            return None
        return self.cpu > 0


class MeasuredPlacements(Frozen):
    """The placements of one version of the checker for one march."""

    march: March
    source: str
    """The tool with its version, the command and the number of networks."""
    signatures: dict[str, PlacementCounts]


@cache
def measured_placements(march: March) -> MeasuredPlacements:
    """Return the checker's placements for a march; empty for one that it does not compile for."""
    file = resources.files("bpudeploy.conformance").joinpath("measured", f"{march}.json")
    if not file.is_file():
        return MeasuredPlacements(march=march, source="", signatures={})
    return MeasuredPlacements.model_validate_json(file.read_text(encoding="utf-8"))
