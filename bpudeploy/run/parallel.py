"""Run several plans in parallel, each shared step once. An Executor decides where steps run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from bpudeploy.digest import Key
from bpudeploy.errors import BpudeployError, OutOfTime
from bpudeploy.events import Event
from bpudeploy.planning.step import Plan, Step, step_key
from bpudeploy.run.runner import RunResult, StepResult, ensure_step, inputs_of
from bpudeploy.stage import Artifact
from bpudeploy.store.locks import store_in_use
from bpudeploy.store.steps import find_record

RecipeListener = Callable[[str, Event], None]
"""Called with a recipe's name and an event of it."""


@dataclass(frozen=True)
class Job:
    """A step whose inputs are in the store, and its recipe."""

    recipe: str
    step: Step
    inputs: tuple[Artifact, ...]
    key: Key
    forced: bool

    @property
    def label(self) -> str:
        return f"{self.step.name} of {self.recipe}"


@dataclass(frozen=True)
class JobResult:
    """The result of a job, or its error."""

    job: Job
    outcome: StepResult | BpudeployError


class Executor(Protocol):
    """Runs jobs in parallel. ``__exit__`` stops running jobs and cleans up."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...

    def can_start(self, job: Job) -> bool:
        """Return whether ``job`` may start now; always true if nothing is running."""

    def start(self, job: Job, listener: RecipeListener) -> None:
        """Start ``job``; ``listener`` is called from ``wait``."""

    def wait(self) -> list[JobResult]:
        """Wait until at least one job has ended; return the ended ones."""


@dataclass
class _PlanRun:
    """The progress of one plan."""

    plan: Plan
    forced: frozenset[str]
    done: dict[str, StepResult] = field(default_factory=dict)
    error: BpudeployError | None = None
    reported: bool = False

    @property
    def outcome(self) -> RunResult | BpudeployError | None:
        """The plan's result or error; None while it is running."""
        if self.error is not None:
            return self.error
        if len(self.done) < len(self.plan.steps):
            return None
        return RunResult({step.name: self.done[step.name] for step in self.plan.steps})

    def ready(self) -> list[Step]:
        """Return the steps whose inputs exist."""
        if self.error is not None:
            return []
        return [s for s in self.plan.steps if s.name not in self.done and all(r.step in self.done for r in s.inputs)]


@dataclass
class _StepStates:
    """Step keys by state; ``renewed`` are the forced ones that have run."""

    running: dict[Key, _PlanRun] = field(default_factory=dict)
    renewed: set[Key] = field(default_factory=set)
    failed: dict[Key, BpudeployError] = field(default_factory=dict)


def run_all(
    plans: Sequence[Plan],
    root: Path,
    executor: Executor,
    listener: RecipeListener,
    force: Collection[str] = (),
    *,
    until: float = math.inf,
    ended: Callable[[int, RunResult | BpudeployError], None] = lambda _index, _outcome: None,
) -> list[RunResult | BpudeployError]:
    """Run every step of every plan that is not in the store; a shared step runs once.

    If a step fails, its plan stops, the others continue, and the returned list has the error at the plan's index.

    Args:
        until: ``time.monotonic()`` after which no step starts; a plan that is incomplete then gets ``OutOfTime``.
        ended: called once per plan with its index, as soon as it has finished or failed.
    """
    runs = [_PlanRun(plan, plan.select(force)) for plan in plans]
    state = _StepStates()
    with store_in_use(root), executor:
        while True:
            for index, plan_run in enumerate(runs):
                while _advance(plan_run, root, executor, listener, state, until):
                    pass
                _report_end(index, plan_run, ended)
            if not state.running:
                break
            for one in executor.wait():
                _settle(one, state)
    for index, plan_run in enumerate(runs):
        if plan_run.outcome is None:
            plan_run.error = OutOfTime(f"{plan_run.plan.recipe}: the time limit was reached before all steps had run")
            _report_end(index, plan_run, ended)
    return [outcome for plan_run in runs if (outcome := plan_run.outcome) is not None]


def _report_end(index: int, plan_run: _PlanRun, ended: Callable[[int, RunResult | BpudeployError], None]) -> None:
    if plan_run.outcome is not None and not plan_run.reported:
        plan_run.reported = True
        ended(index, plan_run.outcome)


def _advance(
    plan_run: _PlanRun, root: Path, executor: Executor, listener: RecipeListener, state: _StepStates, until: float
) -> bool:
    """Take steps from the store and start others as the executor allows; return whether any was taken."""
    taken, name = False, plan_run.plan.recipe
    for step in plan_run.ready():
        inputs = inputs_of(step, plan_run.done)
        key = step_key(step.key_parts(tuple(a.digest for a in inputs)))
        forced = step.name in plan_run.forced and key not in state.renewed
        if key in state.failed:
            plan_run.error = state.failed[key]
            return False
        if key in state.running:
            continue
        if not forced and find_record(root, key) is not None:
            plan_run.done[step.name] = ensure_step(name, step, inputs, root, partial(listener, name))
            taken = True
            continue
        job = Job(name, step, inputs, key, forced)
        if time.monotonic() < until and executor.can_start(job):
            state.running[key] = plan_run
            executor.start(job, listener)
    return taken


def _settle(ended: JobResult, state: _StepStates) -> None:
    job = ended.job
    plan_run = state.running.pop(job.key)
    if isinstance(ended.outcome, BpudeployError):
        state.failed[job.key] = ended.outcome  # every plan that needs this step gets the error
        return
    state.renewed.add(job.key)
    plan_run.done[job.step.name] = ended.outcome
