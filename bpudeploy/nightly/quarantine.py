"""Which boards are left out tonight: a person said so, or their own faults of the last nights do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bpudeploy.nightly.night import Fault, Night
from bpudeploy.spec.suite import QuarantineSpec


def quarantined(nights: Sequence[Night], spec: QuarantineSpec) -> dict[str, str]:
    """Return board to why it is left out.

    No state is kept: it follows from the nights' own records, so a board that is left out comes back by itself when
    its faults are older than ``spec.nights``, and whoever repairs it sooner takes nothing but its name out of a file.

    Args:
        nights: those of the suite, the latest first.
    """
    out = {name: f"left out by a person: {why}" for name, why in spec.boards.items()}
    for name, faults in _faults(nights[: spec.nights]).items():
        if name not in out and len(faults) >= spec.faults:
            last = faults[0]
            out[name] = (
                f"{len(faults)} faults of its own in the last {min(len(nights), spec.nights)} nights, "
                f"the latest on {last.at[:10]}: {last.said}"
            )
    return out


def _faults(nights: Sequence[Night]) -> Mapping[str, list[Fault]]:
    found: dict[str, list[Fault]] = {}
    for night in nights:
        for job in night.jobs:
            for fault in job.faults:
                found.setdefault(fault.board, []).append(fault)
    return {name: sorted(faults, key=lambda fault: fault.at, reverse=True) for name, faults in found.items()}
