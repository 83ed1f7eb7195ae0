"""What changed between two measurements of a job: recipe, weights, data, tools, the board; and how to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from bpudeploy.digest import short
from bpudeploy.planning.preview import differences
from bpudeploy.results.measurement import BuildFacts, Measurement
from bpudeploy.results.session import hottest

_MOST = 12
"""Lines of what changed; a new release of torch alone would fill a page."""
_WARMER_C = 5.0


def changed(before: Measurement, after: Measurement) -> tuple[str, ...]:
    """Return what is different in ``after``, the likeliest cause first; empty where nothing that is known is."""
    lines = list(dict.fromkeys([*_builds(before, after), *_boards(before, after), *_method(before, after)]))
    if len(lines) > _MOST:
        lines = [*lines[: _MOST - 1], f"and {len(lines) - _MOST + 1} more"]
    return tuple(lines)


def reproduce(before: Measurement, after: Measurement, recipe: str) -> tuple[str, ...]:
    """Return commands that show the change again; ``recipe`` is its file."""
    name = f"{after.subject.recipe}@{after.subject.target}"
    old, new = before.subject.release, after.subject.release
    board = "" if after.board == after.subject.target else f" --board {shlex.quote(after.board)}"
    if old == new:
        return (f"bpudeploy bench {short(new)}{board}",)
    lines = [f"bpudeploy bench {short(new)} --against {short(old)}{board}"]
    commits = [m.build.commit if m.build is not None else None for m in (before, after)]
    good, bad = ((text or "").removesuffix("+changes") for text in commits)
    if good and bad and good != bad:
        lines.append(f"bpudeploy bisect {shlex.quote(recipe)} --good {good[:12]} --bad {bad[:12]}{board}")
    else:
        lines.append(f"bpudeploy bisect {name} --good {short(old)} --bad {short(new)}{board}")
    return tuple(lines)


def _builds(before: Measurement, after: Measurement) -> Iterator[str]:
    old, new = before.build, after.build
    if old is None or new is None:
        if before.subject.release != after.subject.release:
            releases = f"{short(before.subject.release)} -> {short(after.subject.release)}"
            yield f"release: {releases}; of one of them it is not known how it was built"
        return
    if before.subject.release == after.subject.release:
        return
    yield from _steps(old, new)
    if old.commit != new.commit:
        yield f"commit of the recipe: {_commit(old.commit)} -> {_commit(new.commit)}"


def _steps(old: BuildFacts, new: BuildFacts) -> Iterator[str]:
    """Yield what differs in the steps' keys; what follows from a step before is that step's."""
    for name in dict.fromkeys((*old.steps, *new.steps)):
        if name not in old.steps:
            yield f"{name}: a new step"
        elif name not in new.steps:
            yield f"{name}: no longer a step"
        else:
            parts, other = _own(old.steps[name].parts), _own(new.steps[name].parts)
            found = differences(parts, other)
            yield from (f"{name}: {line}" for line in found)
            if (
                not found
                and _inputs(old, name) == _inputs(new, name)
                and old.steps[name].digests != new.steps[name].digests
            ):
                yield f"{name}: the same inputs gave other bytes"


def _own(parts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in parts.items() if key != "inputs"}


def _inputs(facts: BuildFacts, name: str) -> object:
    return facts.steps[name].parts.get("inputs")


def _boards(before: Measurement, after: Measurement) -> Iterator[str]:
    if before.board_id != after.board_id:
        yield f"board: {before.board} ({before.board_id}) -> {after.board} ({after.board_id})"
    if before.runtime != after.runtime:
        yield f"the board's runtime: {before.runtime} -> {after.runtime}"
    old, new = before.facts, after.facts
    if old is not None and new is not None:
        for field in ("os", "python", "cpu", "cores", "memory_mb"):
            was, now = getattr(old, field), getattr(new, field)
            if was != now:
                yield f"the board's {field.replace('_', ' ')}: {was} -> {now}"
    was_c, now_c = hottest(before.conditions), hottest(after.conditions)
    if was_c is not None and now_c is not None and abs(now_c - was_c) >= _WARMER_C:
        yield f"the board's hottest sensor: {was_c:.0f} -> {now_c:.0f} °C"


def _method(before: Measurement, after: Measurement) -> Iterator[str]:
    if before.method is not None and after.method is not None:
        for line in differences(before.method.model_dump(mode="json"), after.method.model_dump(mode="json")):
            yield f"benchmark.{line}"
    for tool in sorted({*before.versions, *after.versions}):
        was, now = before.versions.get(tool), after.versions.get(tool)
        if was != now:
            yield f"{tool} on the host: {was or 'not known'} -> {now or 'not known'}"


def _commit(commit: str | None) -> str:
    return "none" if commit is None else commit[:12] + ("+changes" if commit.endswith("+changes") else "")
