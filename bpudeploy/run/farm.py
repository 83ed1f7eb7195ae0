"""Several plans at once: what each step waits for, and which steps several plans share. Where steps run is not known
here: that is the Executor's, and another one may run them on other machines."""

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
from bpudeploy.run.runner import RunResult, StepResult, bring
from bpudeploy.stage import Artifact
from bpudeploy.store.locks import store_in_use
from bpudeploy.store.steps import find_record

Tell = Callable[[str, Event], None]
"""Called with a recipe's name and what happened to it."""


@dataclass(frozen=True)
class Job:
    """A step whose inputs are in the store, and the recipe for which it runs."""

    recipe: str
    step: Step
    inputs: tuple[Artifact, ...]
    key: Key
    forced: bool


@dataclass(frozen=True)
class Ended:
    """A job that is over: what it gave, or why it gave nothing."""

    job: Job
    outcome: StepResult | BpudeployError


class Executor(Protocol):
    """Brings jobs into the store, several at once. ``__exit__`` stops what still runs and leaves nothing behind."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...

    def has_room(self, job: Job) -> bool:
        """Say whether ``job`` may start now; always so where nothing runs."""
        ...

    def start(self, job: Job, tell: Tell) -> None:
        """Begin ``job``; ``tell`` is called from ``wait``."""
        ...

    def wait(self) -> list[Ended]:
        """Return the jobs that have ended, when at least one has."""
        ...


@dataclass
class _Progress:
    """One plan on its way."""

    plan: Plan
    forced: frozenset[str]
    done: dict[str, StepResult] = field(default_factory=dict)
    error: BpudeployError | None = None
    told: bool = False

    @property
    def outcome(self) -> RunResult | BpudeployError | None:
        """What came of the plan; None while it is on its way."""
        if self.error is not None:
            return self.error
        if len(self.done) < len(self.plan.steps):
            return None
        return RunResult({step.name: self.done[step.name] for step in self.plan.steps})

    def ready(self) -> list[Step]:
        """Return the steps whose inputs are there."""
        if self.error is not None:
            return []
        return [s for s in self.plan.steps if s.name not in self.done and all(r.step in self.done for r in s.inputs)]

    def inputs(self, step: Step) -> tuple[Artifact, ...]:
        """Return what ``step`` takes."""
        return tuple(self.done[ref.step].artifacts[ref.output] for ref in step.inputs)


@dataclass
class _State:
    """Keys of steps by what has become of them; ``renewed`` are the forced ones that have run."""

    running: dict[Key, _Progress] = field(default_factory=dict)
    renewed: set[Key] = field(default_factory=set)
    failed: dict[Key, BpudeployError] = field(default_factory=dict)


def run_all(
    plans: Sequence[Plan],
    root: Path,
    executor: Executor,
    tell: Tell,
    force: Collection[str] = (),
    *,
    until: float = math.inf,
    ended: Callable[[int, RunResult | BpudeployError], None] = lambda _index, _outcome: None,
) -> list[RunResult | BpudeployError]:
    """Bring every step of every plan into the store; a step that plans share runs once.

    A plan whose step fails stops there, the others go on: its place in the list holds the error.

    Args:
        until: ``time.monotonic()`` after which no step begins; a plan that is not done then is OutOfTime.
        ended: called once a plan, with its place in ``plans``, as soon as it is done or cannot be.
    """
    under_way = [_Progress(plan, plan.select(force)) for plan in plans]
    state = _State()
    with store_in_use(root), executor:
        while True:
            for index, progress in enumerate(under_way):
                while _advance(progress, root, executor, tell, state, until):
                    pass
                _tell_end(index, progress, ended)
            if not state.running:
                break
            for one in executor.wait():
                _settle(one, state)
    for index, progress in enumerate(under_way):
        if progress.outcome is None:
            progress.error = OutOfTime(f"{progress.plan.recipe}: the time was over before all its steps had run")
            _tell_end(index, progress, ended)
    return [outcome for p in under_way if (outcome := p.outcome) is not None]


def _tell_end(index: int, progress: _Progress, ended: Callable[[int, RunResult | BpudeployError], None]) -> None:
    if progress.outcome is not None and not progress.told:
        progress.told = True
        ended(index, progress.outcome)


def _advance(progress: _Progress, root: Path, executor: Executor, tell: Tell, state: _State, until: float) -> bool:
    """Take what is in the store and start what is not and has room; say whether anything was taken."""
    taken, name = False, progress.plan.recipe
    for step in progress.ready():
        inputs = progress.inputs(step)
        key = step_key(step.key_parts(tuple(a.digest for a in inputs)))
        forced = step.name in progress.forced and key not in state.renewed
        if key in state.failed:
            progress.error = state.failed[key]
            return False
        if key in state.running:
            continue
        if not forced and find_record(root, key) is not None:
            progress.done[step.name] = bring(name, step, inputs, root, partial(tell, name))
            taken = True
            continue
        job = Job(name, step, inputs, key, forced)
        if time.monotonic() < until and executor.has_room(job):
            state.running[key] = progress
            executor.start(job, tell)
    return taken


def _settle(ended: Ended, state: _State) -> None:
    job = ended.job
    progress = state.running.pop(job.key)
    if isinstance(ended.outcome, BpudeployError):
        state.failed[job.key] = ended.outcome  # every plan that needs it meets it here
        return
    state.renewed.add(job.key)
    progress.done[job.step.name] = ended.outcome
