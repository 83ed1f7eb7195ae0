"""The boards that this project's runs measured on: what `boards list` shows if there is no inventory."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError


class KnownBoard(BaseModel):
    """The last run on a board, from its summary.json, whatever version wrote it; its state may have changed since."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    address: str = Field(validation_alias=AliasPath("measurement", "board"))
    hostname: str = Field(validation_alias=AliasPath("measurement", "facts", "hostname"))
    target: str
    recipe: str
    release: str
    started: str


def boards_of(runs: Path) -> list[KnownBoard]:
    """Return the boards that finished runs measured on, latest first; embedded boards have no address."""
    found: dict[str, KnownBoard] = {}
    for path in sorted(runs.glob("*/summary.json"), reverse=True):
        try:
            run = KnownBoard.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if run.address != run.target:
            found.setdefault(run.address, run)
    return list(found.values())
