"""Preview of a run: for each step hit, miss or after X, and which part of its key changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bpudeploy.digest import Digest, Key, short
from bpudeploy.planning.step import Plan, Step, step_key
from bpudeploy.store.steps import Record, find_record, latest_record, record_path


class StepState(StrEnum):
    """What a run would do with a step."""

    HIT = "hit"  # is in the store
    MISS = "miss"  # will run
    AFTER = "after"  # depends on the output of an earlier step: a hit if its bytes are unchanged


@dataclass(frozen=True)
class PlannedStep:
    """A step with its state. ``record`` is set for a hit; ``after`` is the step that it depends on."""

    step: str
    state: StepState
    reason: str
    key: Key | None
    parts: Mapping[str, Any] | None
    record: Record | None = None
    after: str | None = None


def preview(plan: Plan, root: Path, force: Collection[str] = ()) -> tuple[PlannedStep, ...]:
    """Return what ``run`` with the same ``force`` would do. Read-only."""
    forced = plan.select(force)
    known: dict[str, Mapping[str, Digest]] = {}
    steps = []
    for step in plan.steps:
        unknown = next((ref.step for ref in step.inputs if ref.step not in known), None)
        if unknown is not None and step.name in forced:
            planned = PlannedStep(step.name, StepState.MISS, "forced", None, None)
        elif unknown is not None:
            planned = PlannedStep(step.name, StepState.AFTER, f"after {unknown}", None, None, after=unknown)
        else:
            inputs = tuple(known[ref.step][ref.output] for ref in step.inputs)
            planned = _look_at(plan, step, inputs, root, step.name in forced)
        if planned.record is not None:
            outputs = zip(step.stage.gives, planned.record.outputs, strict=True)
            known[step.name] = {name: output.digest for name, output in outputs}
        steps.append(planned)
    return tuple(steps)


def _look_at(plan: Plan, step: Step, inputs: tuple[Digest, ...], root: Path, forced: bool) -> PlannedStep:
    parts = step.key_parts(inputs)
    key = step_key(parts)
    if forced:
        return PlannedStep(step.name, StepState.MISS, "forced", key, parts)
    record = find_record(root, key)
    if record is not None:
        return PlannedStep(step.name, StepState.HIT, "unchanged", key, parts, record)
    if record_path(root, key).exists():
        return PlannedStep(step.name, StepState.MISS, "its objects are missing or damaged", key, parts)
    before = latest_record(root, plan.recipe, step.name)
    reason = "; ".join(differences(before.parts, parts)) if before else "never run"
    return PlannedStep(step.name, StepState.MISS, reason or "its record is missing", key, parts)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Return the differences between the parts of two keys, such as ``options.count: 64 -> 32``."""
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
    """Return a value with tuples as lists, as JSON returns it."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return short(value)
    return "none" if value is None else str(value)
