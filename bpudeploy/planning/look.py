"""Looking before running: for each step hit, miss or after X, and which part of its key changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bpudeploy.digest import Digest, Key, short
from bpudeploy.planning.step import Plan, Step, step_key
from bpudeploy.store.steps import Record, find_record, latest_record, record_path


class State(StrEnum):
    """What a run would do with a step."""

    HIT = "hit"  # taken from the store
    MISS = "miss"  # run
    AFTER = "after"  # unknown until an earlier step has run: equal bytes there make a hit here


@dataclass(frozen=True)
class Outlook:
    """One step as it stands. ``record`` is there for a hit, ``after`` names the step to wait for."""

    step: str
    state: State
    reason: str
    key: Key | None
    parts: Mapping[str, Any] | None
    record: Record | None = None
    after: str | None = None


def look(plan: Plan, root: Path, force: Collection[str] = ()) -> tuple[Outlook, ...]:
    """Say for each step what ``run`` with the same ``force`` would do. Reads the store only."""
    forced = plan.select(force)
    known: dict[str, Mapping[str, Digest] | None] = {}
    outlooks = []
    for step in plan.steps:
        unknown = next((ref.step for ref in step.inputs if known[ref.step] is None), None)
        if unknown is not None and step.name in forced:
            outlook = Outlook(step.name, State.MISS, "forced", None, None)
        elif unknown is not None:
            outlook = Outlook(step.name, State.AFTER, f"after {unknown}", None, None, after=unknown)
        else:
            outlook = _look_at(plan, step, _digests(step, known), root, step.name in forced)
        hit = outlook.record if outlook.state is State.HIT else None
        known[step.name] = _outputs(step, hit) if hit else None
        outlooks.append(outlook)
    return tuple(outlooks)


def _digests(step: Step, known: Mapping[str, Mapping[str, Digest] | None]) -> tuple[Digest, ...]:
    return tuple((known[ref.step] or {})[ref.output] for ref in step.inputs)


def _outputs(step: Step, record: Record) -> Mapping[str, Digest]:
    return {name: o.digest for name, o in zip(step.stage.gives, record.outputs, strict=True)}


def _look_at(plan: Plan, step: Step, inputs: tuple[Digest, ...], root: Path, forced: bool) -> Outlook:
    parts = step.key_parts(inputs)
    key = step_key(parts)
    if forced:
        return Outlook(step.name, State.MISS, "forced", key, parts)
    record = find_record(root, key)
    if record is not None:
        return Outlook(step.name, State.HIT, "unchanged", key, parts, record)
    if record_path(root, key).exists():
        return Outlook(step.name, State.MISS, "its bytes are gone or damaged", key, parts)
    before = latest_record(root, plan.recipe, step.name)
    reason = "; ".join(differences(before.parts, parts)) if before else "never run"
    return Outlook(step.name, State.MISS, reason or "its record is gone", key, parts)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Say part by part how two keys differ, such as ``options.count: 64 -> 32``."""
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        here = f"{path}.{name}" if path else str(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, here)
        elif _plain(old) != _plain(new):
            lines.append(f"{here}: {_shown(old)} -> {_shown(new)}")
    return lines


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back, where a tuple is a list."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return short(value)
    return "none" if value is None else str(value)
