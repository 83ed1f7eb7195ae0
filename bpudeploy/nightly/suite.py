"""A suite's file to its jobs: each recipe for each target, with its boards; every error has its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bpudeploy.errors import SpecError, UsageError
from bpudeploy.fleet.inventory import load_fleet, targets_of
from bpudeploy.fleet.select import labels_of, parse
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.fleet import Fleet, FleetBoard
from bpudeploy.spec.load import LoadedRecipe, load_recipe
from bpudeploy.spec.recipe import Outputs
from bpudeploy.spec.suite import JobSpec, NightlyChecks, Suite
from bpudeploy.spec.target import Connection
from bpudeploy.spec.validate import all_of, problem, validate
from bpudeploy.spec.yamlmarks import Node, load_yaml

HERE = "this machine"
"""The board of every target that a run starts itself: they share one CPU, and are measured one after the other."""


@dataclass(frozen=True)
class Job:
    """One recipe for one target, and what is wanted of it."""

    resolved: LoadedRecipe
    value: float
    checks: NightlyChecks
    recompile: bool
    boards: tuple[str, ...]
    """Those of the fleet that may run it, or HERE."""

    @property
    def name(self) -> str:
        """RECIPE@TARGET."""
        return f"{self.resolved.recipe.name}@{self.resolved.target.name}"


@dataclass(frozen=True)
class LoadedSuite:
    """A suite with its jobs, the most valuable first, and the boards that they may use."""

    suite: Suite
    file: Path
    jobs: tuple[Job, ...]
    boards: Mapping[str, FleetBoard]

    @property
    def baselines(self) -> Path:
        """The folder of the pinned baselines."""
        return self.file.parent / self.suite.baselines

    def only(self, names: Collection[str]) -> LoadedSuite:
        """Return the suite with these jobs; with all of them when none is named.

        Raises:
            UsageError: there is no job of that name.
        """
        known = [job.name for job in self.jobs]
        for name in names:
            if name not in known:
                near = nearest(name, known)
                hint = f"did you mean {near}?" if near else f"its jobs: {', '.join(known)}"
                raise UsageError(f"{self.file} has no job {name!r}", hint=hint)
        return replace(self, jobs=tuple(job for job in self.jobs if job.name in names)) if names else self

    @property
    def budget_s(self) -> float | None:
        """How long the night may take, in seconds; None: as long as it takes."""
        minutes = self.suite.budget_minutes
        return None if minutes is None else 60 * minutes


def load_suite(path: Path, backends: Callable[[], Collection[str]] = tuple) -> LoadedSuite:
    """Load a suite, its fleet and all of its recipes. Runs nothing.

    Args:
        backends: as for ``load_recipe``.

    Raises:
        SpecError: the first of all errors found in the suite, with the rest in ``others``; else the first of a recipe.
    """
    root = load_yaml(path)
    suite = validate(Suite, root)
    fleet, marches = _fleet(suite, root, path)
    errors: list[SpecError] = []
    jobs: list[tuple[int, Job]] = []
    for number, spec in enumerate(suite.jobs):
        try:
            jobs += [(number, job) for job in _jobs(spec, suite, fleet, marches, path, backends)]
        except _Wrong as wrong:
            errors.append(problem(root, ("jobs", number, *wrong.path), wrong.message, wrong.hint))
    errors += _twice(jobs, root)
    errors += [
        problem(root, ("quarantine", "boards", name), f"no board of the fleet is named {name!r}", "remove it")
        for name in suite.quarantine.boards
        if fleet is None or name not in fleet.boards
    ]
    if errors:
        raise all_of(errors)
    ordered = sorted((job for _, job in jobs), key=lambda job: -job.value)  # of equal value, as they are written
    return LoadedSuite(suite, path, tuple(ordered), fleet.boards if fleet is not None else {})


class _Wrong(Exception):
    def __init__(self, path: tuple[str | int, ...], message: str, hint: str) -> None:
        self.path, self.message, self.hint = path, message, hint


def _fleet(suite: Suite, root: Node, path: Path) -> tuple[Fleet | None, Mapping[str, str]]:
    """Return the fleet, and the march of each of its targets."""
    if suite.fleet is None:
        return None, {}
    file = Path(os.path.normpath(path.parent / suite.fleet))
    if not file.is_file():
        raise problem(root, ("fleet",), f"there is no {file}", "a path is relative to the suite's file")
    fleet = load_fleet(file)
    return fleet, {name: target.march.value for name, target in targets_of(fleet, file.parent).items()}


def _jobs(
    spec: JobSpec,
    suite: Suite,
    fleet: Fleet | None,
    marches: Mapping[str, str],
    path: Path,
    backends: Callable[[], Collection[str]],
) -> Iterator[Job]:
    for resolved in _recipes(spec, path, backends):
        if resolved.recipe.model.outputs is Outputs.FEATURES:
            raise _Wrong(
                ("recipe",), f"{resolved.recipe.name} gives feature maps, and a night measures a top-1", "remove it"
            )
        yield Job(
            resolved=resolved,
            value=spec.value,
            checks=spec.checks or suite.checks,
            recompile=spec.recompile,
            boards=_pool(spec, resolved, fleet, marches),
        )


def _recipes(spec: JobSpec, path: Path, backends: Callable[[], Collection[str]]) -> list[LoadedRecipe]:
    """Return the recipe for each target that is meant: of a matrix those, else with its own target replaced."""
    file = Path(os.path.normpath(path.parent / spec.recipe))
    if not file.is_file():
        raise _Wrong(("recipe",), f"there is no {file}", "a path is relative to the suite's file")
    as_written = load_recipe(file, spec.set, backends)
    own = {resolved.target.name for resolved in as_written}
    if not spec.targets:
        return list(as_written)
    if len(own) == 1:
        return [one for name in spec.targets for one in load_recipe(file, (*spec.set, f"target={name}"), backends)]
    for number, name in enumerate(spec.targets):
        if name not in own:
            raise _Wrong(("targets", number), f"{file} has no target {name}", f"it has: {', '.join(sorted(own))}")
    return [one for one in as_written if one.target.name in spec.targets]


def _pool(spec: JobSpec, resolved: LoadedRecipe, fleet: Fleet | None, marches: Mapping[str, str]) -> tuple[str, ...]:
    target = resolved.target
    if target.board.connection is Connection.EMBEDDED:
        if spec.pool is not None:
            raise _Wrong(("pool",), f"target {target.name} starts its own board, so a pool has no place", "remove it")
        return (HERE,)
    if fleet is None:
        raise _Wrong(
            ("recipe",),
            f"{resolved.recipe.name} is for {target.name}, and the suite has no boards",
            "add `fleet: FILE`, or `targets:` that start a board of their own, such as local or sim-x5",
        )
    try:
        chosen = parse(spec.pool or "*", labels_of(fleet))
    except UsageError as error:
        raise _Wrong(("pool",), error.message, error.hint or "") from error
    found = tuple(
        name
        for name, board in fleet.boards.items()
        if board.target == target.name and chosen.matches(name, board, marches[board.target])
    )
    if not found:
        of = sorted({board.target for board in fleet.boards.values()})
        raise _Wrong(
            ("pool",) if spec.pool is not None else ("recipe",),
            f"no board of the fleet is a {target.name}" + (f" of {spec.pool}" if spec.pool is not None else ""),
            f"the fleet's boards are {', '.join(of)}",
        )
    return found


def _twice(jobs: list[tuple[int, Job]], root: Node) -> Iterator[SpecError]:
    seen: set[str] = set()
    for number, job in jobs:
        if job.name in seen:
            hint = "its figures are filed under that name: give one of the recipes another `name:`"
            yield problem(root, ("jobs", number), f"{job.name} is in the suite twice", hint)
        seen.add(job.name)
