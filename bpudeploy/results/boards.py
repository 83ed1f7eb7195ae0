"""The boards that this project's runs measured on: what `boards list` shows if there is no inventory."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bpudeploy.results.measurement import FrozenModel


class _Partial(BaseModel):
    """The fields of a summary.json that are needed here; other versions of bpudeploy write them too."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Facts(_Partial):
    hostname: str


class _Measurement(_Partial):
    board: str
    facts: _Facts


class _Run(_Partial):
    recipe: str
    target: str
    started: str
    release: str
    measurement: _Measurement


class KnownBoard(FrozenModel):
    """The last run on a board; its state may have changed since."""

    address: str
    hostname: str
    target: str
    recipe: str
    release: str
    started: str


def boards_of(runs: Path) -> list[KnownBoard]:
    """Return the boards that finished runs measured on, latest first; embedded boards have no address."""
    found: dict[str, KnownBoard] = {}
    for path in sorted(runs.glob("*/summary.json"), reverse=True):
        try:
            run = _Run.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        m = run.measurement
        if m.board != run.target and m.board not in found:
            found[m.board] = KnownBoard(
                address=m.board, hostname=m.facts.hostname, **run.model_dump(exclude={"measurement"})
            )
    return list(found.values())
