"""The loop over a plan: steps, keys and the store."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bpudeploy.digest import Digest, Key
from bpudeploy.errors import StageContractError, StoreError
from bpudeploy.events import Event, Note, StepFinished, StepStarted, StepWaiting
from bpudeploy.planning.preview import differences
from bpudeploy.planning.step import Plan, Step, step_key
from bpudeploy.stage import Artifact, StepContext
from bpudeploy.store.leases import lease
from bpudeploy.store.locks import step_lock, store_in_use
from bpudeploy.store.objects import add_object, object_path, storing
from bpudeploy.store.shared import ReadOnly, SharedStore, fetch, fetch_object, share
from bpudeploy.store.steps import (
    Record,
    StepOutput,
    find_record,
    keep_record,
    latest_record,
    record_path,
    remember,
)

_LONG_S = 60.0


@dataclass(frozen=True)
class StepResult:
    """A step's record, and whether it came from the store."""

    record: Record
    hit: bool
    artifacts: Mapping[str, Artifact]
    """By output name."""


@dataclass(frozen=True)
class RunResult:
    """Results by step name, in the plan's order."""

    steps: dict[str, StepResult]

    @property
    def ran(self) -> list[str]:
        """The steps that were not in the store."""
        return [name for name, result in self.steps.items() if not result.hit]

    def artifact(self, step: str, output: str | None = None) -> Artifact:
        """Return a step's output by name; None: its first."""
        artifacts = self.steps[step].artifacts
        return artifacts[output or next(iter(artifacts))]

    @property
    def digests(self) -> dict[str, tuple[Digest, ...]]:
        """The digests of each step's outputs, in the order in which its stage declares them."""
        return {name: tuple(a.digest for a in step.artifacts.values()) for name, step in self.steps.items()}

    @property
    def artifacts(self) -> dict[str, Mapping[str, Artifact]]:
        """The outputs of each step, by step and output name."""
        return {name: step.artifacts for name, step in self.steps.items()}


def run(
    plan: Plan,
    root: Path,
    emit: Callable[[Event], None],
    force: Collection[str] = (),
    *,
    shared: SharedStore | None = None,
) -> RunResult:
    """Run the steps of ``plan`` that the store at ``root`` does not have.

    Safe to interrupt at any moment: a step's record is written last. Other processes may use the same store.

    Raises:
        BpudeployError: from a stage, or StoreError from the store itself.
    """
    forced = plan.select(force)
    results: dict[str, StepResult] = {}
    with store_in_use(root):
        for step in plan.steps:
            inputs = inputs_of(step, results)
            results[step.name] = ensure_step(
                plan.recipe, step, inputs, root, emit, forced=step.name in forced, shared=shared
            )
    return RunResult(results)


def inputs_of(step: Step, results: Mapping[str, StepResult]) -> tuple[Artifact, ...]:
    """Return the inputs of ``step``, which earlier steps made."""
    return tuple(results[ref.step].artifacts[ref.output] for ref in step.inputs)


def ensure_step(
    recipe: str,
    step: Step,
    inputs: tuple[Artifact, ...],
    root: Path,
    emit: Callable[[Event], None],
    *,
    forced: bool = False,
    shared: SharedStore | None = None,
) -> StepResult:
    """Run one step unless the store has it; the caller holds ``store_in_use``.

    With ``shared``, a step that the shared store has is fetched instead, and a new result is added to it. Then only the
    digests of the inputs matter: they may have been built on other machines.

    Raises:
        BpudeployError: from the stage, or StoreError from the store itself.
    """
    parts = step.key_parts(tuple(a.digest for a in inputs))
    key = step_key(parts)
    record = None if forced else _find(root, key, shared, emit)
    hit = record is not None
    if record is None:
        before = _record_inode(root, key)
        waiting = partial(emit, StepWaiting(step.name))
        # against processes of this machine first, then against other machines
        with step_lock(root, key, waiting), nullcontext() if shared is None else lease(shared, key, waiting):
            if not forced or _record_inode(root, key) != before:
                record = _find(root, key, shared, emit)  # another process may have run it while we waited
            hit = record is not None
            if record is None:
                emit(StepStarted(step.name))
                _tell_time_before(root, recipe, step, emit)
                record = _run_step(step, _local_inputs(inputs, root, shared), key, parts, root, emit)
                keep_record(root, record)
                remember(root, recipe, record)
                if shared is not None:
                    record = _share(shared, root, record, forced, emit)
    if hit:
        remember(root, recipe, record)
    digests = tuple(o.digest for o in record.outputs)
    emit(StepFinished(step.name, "hit" if hit else "miss", digests, record.seconds, record.peak_mb))
    return StepResult(record, hit, artifacts_of(step, record, root))


def _tell_time_before(root: Path, recipe: str, step: Step, emit: Callable[[Event], None]) -> None:
    """Say how long a long step of this recipe took with the same options, but other inputs."""
    before = latest_record(root, recipe, step.name)
    if before is None or before.seconds < _LONG_S:
        return
    if not differences(before.parts.get("options", {}), step.options.canonical()):
        emit(Note(step.name, f"took {before.seconds / 60:.0f} min with these options before"))


def _find(root: Path, key: Key, shared: SharedStore | None, emit: Callable[[Event], None]) -> Record | None:
    """Return the record of ``key`` from the local or the shared store, and copy it with its objects to the other."""
    found = find_record(root, key)
    if shared is None:
        return found
    return fetch(shared, root, key) if found is None else _share(shared, root, found, False, emit)


def _local_inputs(inputs: tuple[Artifact, ...], root: Path, shared: SharedStore | None) -> tuple[Artifact, ...]:
    """Return the inputs in the local store, fetching missing ones."""
    if shared is None:
        return inputs
    for artifact in inputs:
        if not fetch_object(shared, root, artifact.digest):
            raise StoreError(
                f"{shared.url} has no intact object {artifact.digest}, an input of this step",
                hint="run again: the step that makes it then runs again",
            )
    return tuple(Artifact(a.kind, a.digest, object_path(root, a.digest)) for a in inputs)


def _share(shared: SharedStore, root: Path, record: Record, forced: bool, emit: Callable[[Event], None]) -> Record:
    """Add a record to the shared store, unless that is read-only; return the record to use."""
    try:
        return share(shared, root, record, replace=forced)
    except ReadOnly as error:
        emit(Note(record.step, f"stored on this machine only: {error.message}"))
        return record


def _record_inode(root: Path, key: Key) -> int | None:
    """Return a record's inode, which changes with each write, to detect that another forced run has renewed it."""
    try:
        return record_path(root, key).stat().st_ino
    except FileNotFoundError:
        return None


def _run_step(
    step: Step, inputs: tuple[Artifact, ...], key: Key, parts: dict[str, Any], root: Path, emit: Callable[[Event], None]
) -> Record:
    """Run one step in a new folder and move its outputs into the store. The caller holds the step's lock."""
    folder = root / "work" / key
    with storing(folder):
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed: we hold its lock now
        folder.mkdir(parents=True)
    reset_peak_memory()
    started = time.perf_counter()
    try:
        paths = step.stage.run(StepContext(folder, emit), step.options, inputs)
        seconds = time.perf_counter() - started
        _check_outputs(step, paths, folder)
        outputs = tuple(
            StepOutput(kind, add_object(root, path), object_size)
            for kind, path in zip(step.stage.gives.values(), paths, strict=True)
            for object_size in (path.stat().st_size,)
        )
    except OSError as error:
        raise StoreError(
            f"{step.name}: {error}", hint="check the space and the permissions of the store and of temporary folders"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Record(step.name, key, parts, outputs, seconds, peak_memory_mb(), int(time.time()))


def _check_outputs(step: Step, paths: tuple[Path, ...], folder: Path) -> None:
    """Check that a stage wrote what it declares."""
    if len(paths) != len(step.stage.gives):
        raise StageContractError(
            f"{step.name} returned {len(paths)} files, but declares {len(step.stage.gives)}",
            hint="correct the stage's `gives`",
        )
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or path.is_symlink():
            raise StageContractError(
                f"{step.name} returned {path}, which is not a regular file in its work folder",
                hint="write under work.dir, or return the path of a file copied there",
            )


def artifacts_of(step: Step, record: Record, root: Path) -> Mapping[str, Artifact]:
    """Return the artifacts of a record of ``step`` in the store at ``root``, by output name."""
    return {
        name: Artifact(kind, Digest(o.digest), object_path(root, o.digest))
        for (name, kind), o in zip(step.stage.gives.items(), record.outputs, strict=True)
    }


def reset_peak_memory() -> None:
    """Reset the peak of this process's resident memory, if Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # peak_memory_mb then returns the peak since the process started: an upper bound


def peak_memory_mb() -> float:
    """Return the peak resident memory since the last reset, in MB (10^6 bytes)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
