"""What a YAML asks of single nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.models import Network
from tests.fakes.say import Refused


@dataclass
class Asked:
    """What the YAML asks of single nodes, and which inputs are images."""

    on: dict[str, str] = field(default_factory=dict)
    dtype: dict[str, str] = field(default_factory=dict)
    softmax_on_bpu: bool = False
    all_int16: bool = False
    images: tuple[str, ...] = ()
    custom: bool = False


def check_named(given: Mapping[str, Any] | Collection[str], network: Network, key: str) -> None:
    """Refuse names of nodes that the model does not have."""
    missing = [n for n in given if n not in network.named()]
    if missing:
        raise Refused(f"The node {missing[0]!r} specified in {key} does not exist in the model")
