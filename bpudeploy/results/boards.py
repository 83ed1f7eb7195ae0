"""The boards that the runs of this project reached: what `boards list` knows until there is an inventory."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class _Read(BaseModel):
    """As much of a summary as is asked for here; one of another version of bpudeploy has it too."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Facts(_Read):
    hostname: str


class _Measurement(_Read):
    board: str
    facts: _Facts


class _Run(_Read):
    recipe: str
    target: str
    started: str
    release: str
    measurement: _Measurement


class Seen(BaseModel):
    """A board's last run here. It says what was, not what is there now."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    address: str
    hostname: str
    target: str
    recipe: str
    release: str
    started: str


def boards_of(runs: Path) -> list[Seen]:
    """Return each address that a finished run measured on, the latest first; embedded boards have no address."""
    found: dict[str, Seen] = {}
    for path in sorted(runs.glob("*/summary.json"), reverse=True):
        try:
            run = _Run.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        m = run.measurement
        if m.board != run.target and m.board not in found:
            found[m.board] = Seen(
                address=m.board,
                hostname=m.facts.hostname,
                target=run.target,
                recipe=run.recipe,
                release=run.release,
                started=run.started,
            )
    return list(found.values())
