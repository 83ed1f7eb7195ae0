"""Load a suite file: one job per recipe and target, with its boards; errors have their positions."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bpudeploy.errors import SpecError, UsageError
from bpudeploy.fleet.inventory import load_fleet, targets_of
from bpudeploy.fleet.select import labels_of, parse
from bpudeploy.spec.compose import did_you_mean
from bpudeploy.spec.fleet import Fleet, FleetBoard
from bpudeploy.spec.load import LoadedRecipe, load_recipe
from bpudeploy.spec.recipe import Outputs
from bpudeploy.spec.suite import JobSpec, NightlyChecks, Suite
from bpudeploy.spec.target import Connection
from bpudeploy.spec.validate import all_of, problem, validate
from bpudeploy.spec.yamlmarks import Node, load_yaml

LOCAL_BOARD = "this machine"
"""The board of all targets with an embedded board: they share one CPU, so they are measured one at a time."""


@dataclass(frozen=True)
class Job:
    """One recipe for one target."""

    resolved: LoadedRecipe
    value: float
    checks: NightlyChecks
    recompile: bool
    boards: tuple[str, ...]
    """Boards of the fleet that may run it, or LOCAL_BOARD."""

    @property
    def name(self) -> str:
        """RECIPE@TARGET."""
        return f"{self.resolved.recipe.name}@{self.resolved.target.name}"


@dataclass(frozen=True)
class LoadedSuite:
    """A suite with its jobs, highest value first, and the boards of its fleet."""

    suite: Suite
    file: Path
    jobs: tuple[Job, ...]
    boards: Mapping[str, FleetBoard]

    @property
    def baselines(self) -> Path:
        """The folder of the pinned baselines."""
        return self.file.parent / self.suite.baselines

    def only(self, names: Collection[str]) -> LoadedSuite:
        """Return the suite with only the named jobs, or with all if none is named.

        Raises:
            UsageError: there is no job of that name.
        """
        known = [job.name for job in self.jobs]
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known, f"its jobs: {', '.join(known)}")
                raise UsageError(f"{self.file} has no job {name!r}", hint=hint)
        return replace(self, jobs=tuple(job for job in self.jobs if job.name in names)) if names else self

    @property
    def budget_s(self) -> float | None:
        """Time budget in seconds; None: unlimited."""
        minutes = self.suite.budget_minutes
        return None if minutes is None else 60 * minutes


def load_suite(path: Path, backends: Callable[[], Collection[str]] = tuple) -> LoadedSuite:
    """Load a suite, its fleet and its recipes.

    Args:
        backends: as for ``load_recipe``.

    Raises:
        SpecError: the first error in the suite, with the rest in ``others``; or the first error in a recipe.
    """
    root = load_yaml(path)
    suite = validate(Suite, root)
    fleet, marches = _fleet(suite, root, path)
    errors: list[SpecError] = []
    jobs: list[Job] = []
    for number, spec in enumerate(suite.jobs):
        try:
            for resolved in _recipes(spec, path, backends):
                boards = _pool(spec, resolved, fleet, marches)
                job = Job(resolved, spec.value, spec.checks or suite.checks, spec.recompile, boards)
                if any(job.name == one.name for one in jobs):
                    hint = "its results are stored by that name: give one of the recipes another `name:`"
                    errors.append(problem(root, ("jobs", number), f"{job.name} is in the suite twice", hint))
                jobs.append(job)
        except _JobError as error:
            errors.append(problem(root, ("jobs", number, *error.path), error.message, error.hint))
    errors += [
        problem(root, ("quarantine", "boards", name), f"no board of the fleet is named {name!r}", "remove it")
        for name in suite.quarantine.boards
        if fleet is None or name not in fleet.boards
    ]
    if errors:
        raise all_of(errors)
    ordered = sorted(jobs, key=lambda job: -job.value)  # stable: by position if the values are equal
    return LoadedSuite(suite, path, tuple(ordered), fleet.boards if fleet is not None else {})


class _JobError(Exception):
    """An error in a job; ``path`` is relative to the job."""

    def __init__(self, path: tuple[str | int, ...], message: str, hint: str) -> None:
        self.path, self.message, self.hint = path, message, hint


def _fleet(suite: Suite, root: Node, path: Path) -> tuple[Fleet | None, Mapping[str, str]]:
    """Return the fleet and the march of each of its targets."""
    if suite.fleet is None:
        return None, {}
    file = Path(os.path.normpath(path.parent / suite.fleet))
    if not file.is_file():
        raise problem(root, ("fleet",), f"there is no {file}", "paths are relative to the suite's file")
    fleet = load_fleet(file)
    return fleet, {name: target.march.value for name, target in targets_of(fleet, file.parent).items()}


def _recipes(spec: JobSpec, path: Path, backends: Callable[[], Collection[str]]) -> list[LoadedRecipe]:
    """Return the recipe for each target of the job: selected from its matrix, or in place of its own target."""
    file = Path(os.path.normpath(path.parent / spec.recipe))
    if not file.is_file():
        raise _JobError(("recipe",), f"there is no {file}", "paths are relative to the suite's file")
    found = list(load_recipe(file, spec.set, backends))
    own = {resolved.target.name for resolved in found}
    if spec.targets and len(own) == 1:
        found = [one for name in spec.targets for one in load_recipe(file, (*spec.set, f"target={name}"), backends)]
    elif spec.targets:
        for number, name in enumerate(spec.targets):
            if name not in own:
                hint = f"it has: {', '.join(sorted(own))}"
                raise _JobError(("targets", number), f"{file} has no target {name}", hint)
        found = [one for one in found if one.target.name in spec.targets]
    for one in found:
        if one.recipe.model.outputs is Outputs.FEATURES:
            raise _JobError(("recipe",), f"{one.recipe.name} outputs feature maps; nights measure top-1", "remove it")
    return found


def _pool(spec: JobSpec, resolved: LoadedRecipe, fleet: Fleet | None, marches: Mapping[str, str]) -> tuple[str, ...]:
    target = resolved.target
    if target.board.connection is Connection.EMBEDDED:
        if spec.pool is not None:
            raise _JobError(("pool",), f"target {target.name} has an embedded board, so it has no pool", "remove it")
        return (LOCAL_BOARD,)
    if fleet is None:
        raise _JobError(
            ("recipe",),
            f"{resolved.recipe.name} is for {target.name}, and the suite has no boards",
            "add `fleet: FILE`, or `targets:` with an embedded board, such as local or sim-x5",
        )
    try:
        chosen = parse(spec.pool or "*", labels_of(fleet))
    except UsageError as error:
        raise _JobError(("pool",), error.message, error.hint or "") from error
    found = tuple(
        name
        for name, board in fleet.boards.items()
        if board.target == target.name and chosen.matches(name, board, marches[board.target])
    )
    if not found:
        where, matching = ("recipe", "") if spec.pool is None else ("pool", f" that matches {spec.pool}")
        targets = ", ".join(sorted({board.target for board in fleet.boards.values()}))
        raise _JobError((where,), f"the fleet has no {target.name}{matching}", f"the fleet's boards are {targets}")
    return found
