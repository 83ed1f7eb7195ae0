"""How a figure came to be."""

from __future__ import annotations

from enum import StrEnum


class Provenance(StrEnum):
    """How a figure came to be; comparisons never mix them."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    PREDICTED = "predicted"
