"""What a YAML asks of single nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tests.fakes.models import Network
from tests.fakes.say import Refused


def check_named(given: Mapping[str, Any] | Collection[str], network: Network, key: str) -> None:
    """Refuse names of nodes that the model does not have."""
    missing = [n for n in given if n not in network.named()]
    if missing:
        raise Refused(f"The node {missing[0]!r} specified in {key} does not exist in the model")
