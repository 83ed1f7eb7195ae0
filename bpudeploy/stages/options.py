"""Base class of stage options whose fields are their cache key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FieldOptions:
    """Options of a stage; every field enters the cache key under its own name."""

    def canonical(self) -> Mapping[str, Any]:
        return asdict(self)


class NoOptions(FieldOptions):
    """Options of a stage that has none."""
