"""Where the vendor's checker put the nodes of small networks: data in ``measured/``, from ``benchmarks.operators``."""

from __future__ import annotations

from functools import cache
from importlib import resources

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March


class Seen(Frozen):
    """How many nodes of one signature the checker put where; ``fused`` ones are part of a neighbour."""

    bpu: int = 0
    cpu: int = 0
    fused: int = 0

    @property
    def on_cpu(self) -> bool | None:
        """Whether they run on the CPU; None where sizes or neighbours decide."""
        if self.cpu and (self.bpu or self.fused):
            return None
        return self.cpu > 0


class Measured(Frozen):
    """All that one version of the checker said for one march."""

    march: March
    source: str
    """The tool with its version, the command and the number of networks."""
    signatures: dict[str, Seen]


_NONE = Measured(march=March.CPU, source="", signatures={})


@cache
def measured(march: March) -> Measured:
    """Return what the checker said for a march; nothing for one that it does not compile for."""
    file = resources.files("bpudeploy.conformance").joinpath("measured", f"{march}.json")
    return Measured.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else _NONE
