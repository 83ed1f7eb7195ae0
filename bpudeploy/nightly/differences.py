"""Differences between two measurements of a job in recipe, weights, data, tools and board; commands to reproduce."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from bpudeploy.digest import short
from bpudeploy.nightly.night import MetricFinding
from bpudeploy.planning.preview import differences
from bpudeploy.results.measurement import BuildFacts, Measurement
from bpudeploy.results.session import hottest

_MAX_LINES = 12
"""An update of torch alone may change more."""
_WARMER_C = 5.0


def with_evidence(
    finding: MetricFinding,
    before: Measurement | None,
    after: Measurement,
    recipe: str,
    *,
    since: str,
    last_good: str | None,
) -> MetricFinding:
    """Return a regression with when it began, what changed and how to reproduce it.

    Args:
        before: the good measurement; None if it is no longer known.
        recipe: the recipe's file, for the commands.
    """
    update: dict[str, object] = {"since": since, "last_good": last_good}
    if before is not None:
        update["changed"] = describe_differences(before, after)
        update["reproduce"] = reproduce_commands(before, after, recipe)
    return finding.model_copy(update=update)


def describe_differences(before: Measurement, after: Measurement) -> tuple[str, ...]:
    """Return what differs in ``after``, the likeliest cause first."""
    lines = list(dict.fromkeys([*_builds(before, after), *_boards(before, after), *_method(before, after)]))
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"and {len(lines) - _MAX_LINES + 1} more"]
    return tuple(lines)


def reproduce_commands(before: Measurement, after: Measurement, recipe: str) -> tuple[str, ...]:
    """Return commands that reproduce the change; ``recipe`` is its file."""
    old, new = before.subject.release, after.subject.release
    board = "" if after.board == after.subject.target else f" --board {shlex.quote(after.board)}"
    if old == new:
        return (f"bpudeploy bench {short(new)}{board}",)
    commits = [m.build.commit if m.build is not None else None for m in (before, after)]
    good, bad = ((text or "").removesuffix("+changes")[:12] for text in commits)
    what = shlex.quote(recipe)
    if not good or not bad or good == bad:
        what, good, bad = f"{after.subject.recipe}@{after.subject.target}", short(old), short(new)
    return (
        f"bpudeploy bench {short(new)} --against {short(old)}{board}",
        f"bpudeploy bisect {what} --good {good} --bad {bad}{board}",
    )


def _builds(before: Measurement, after: Measurement) -> Iterator[str]:
    old, new = before.build, after.build
    if before.subject.release == after.subject.release:
        return
    if old is None or new is None:
        releases = f"{short(before.subject.release)} -> {short(after.subject.release)}"
        yield f"release: {releases}; the build of one of them is unknown"
        return
    yield from _steps(old, new)
    if old.commit != new.commit:
        yield f"recipe commit: {_commit(old.commit)} -> {_commit(new.commit)}"


def _steps(old: BuildFacts, new: BuildFacts) -> Iterator[str]:
    """Yield the differences in the steps' keys, without those that follow from an earlier step."""
    for name in dict.fromkeys((*old.steps, *new.steps)):
        if name not in old.steps:
            yield f"{name}: a new step"
        elif name not in new.steps:
            yield f"{name}: no longer a step"
        else:
            (own, inputs), (other, other_inputs) = (_key_parts(facts, name) for facts in (old, new))
            found = differences(own, other)
            yield from (f"{name}: {line}" for line in found)
            if not found and inputs == other_inputs and old.steps[name].digests != new.steps[name].digests:
                yield f"{name}: same inputs, different output"


def _key_parts(facts: BuildFacts, name: str) -> tuple[Mapping[str, Any], object]:
    """Return a step's own key parts, and those of its inputs."""
    parts = dict(facts.steps[name].parts)
    inputs = parts.pop("inputs", None)
    return parts, inputs


def _boards(before: Measurement, after: Measurement) -> Iterator[str]:
    if before.board_id != after.board_id:
        yield f"board: {before.board} ({before.board_id}) -> {after.board} ({after.board_id})"
    if before.runtime != after.runtime:
        yield f"board runtime: {before.runtime} -> {after.runtime}"
    old, new = before.facts, after.facts
    if old is not None and new is not None:
        for field in ("os", "python", "cpu", "cores", "memory_mb"):
            was, now = getattr(old, field), getattr(new, field)
            if was != now:
                yield f"board {field.replace('_', ' ')}: {was} -> {now}"
    was_c, now_c = hottest(before.conditions), hottest(after.conditions)
    if was_c is not None and now_c is not None and abs(now_c - was_c) >= _WARMER_C:
        yield f"hottest board sensor: {was_c:.0f} -> {now_c:.0f} °C"


def _method(before: Measurement, after: Measurement) -> Iterator[str]:
    if before.method is not None and after.method is not None:
        for line in differences(before.method.model_dump(mode="json"), after.method.model_dump(mode="json")):
            yield f"benchmark.{line}"
    for tool in sorted({*before.versions, *after.versions}):
        was, now = before.versions.get(tool), after.versions.get(tool)
        if was != now:
            yield f"{tool} on the host: {was or 'unknown'} -> {now or 'unknown'}"


def _commit(commit: str | None) -> str:
    return "none" if commit is None else commit[:12] + ("+changes" if commit.endswith("+changes") else "")
