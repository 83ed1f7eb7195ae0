"""The small loop over a plan. It knows steps, keys and the store; not stages, boards or metrics."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.digest import Digest, Key
from bpudeploy.errors import StageContractError, StoreError
from bpudeploy.events import Event, Note, StepFinished, StepStarted, StepWaiting
from bpudeploy.planning.step import Plan, Step, step_key
from bpudeploy.stage import Artifact, Work
from bpudeploy.store.leases import lease
from bpudeploy.store.locks import step_lock, store_in_use
from bpudeploy.store.objects import add_object, object_path, storing
from bpudeploy.store.shared import ReadOnly, SharedStore, fetch, fetch_object, share
from bpudeploy.store.steps import Record, StepOutput, find_record, record_path, remember, write_record


@dataclass(frozen=True)
class StepResult:
    """A step's record and whether it came from the store."""

    record: Record
    hit: bool
    artifacts: Mapping[str, Artifact]
    """By the name of the output."""


@dataclass(frozen=True)
class RunResult:
    """Results by step name, in the plan's order."""

    steps: dict[str, StepResult]

    @property
    def ran(self) -> list[str]:
        """The steps that were not in the store."""
        return [name for name, result in self.steps.items() if not result.hit]

    def artifact(self, step: str, output: str | None = None) -> Artifact:
        """Return the output of that name of a step; None: its first."""
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
    """Bring every step of ``plan`` into the store at ``root``, running what is not there.

    Safe to stop at any moment: a step is in the store when its record is, and that is written last.
    Other processes may run the same or other plans on the same store.

    Raises:
        BpudeployError: from a stage, or StoreError from the store itself.
    """
    forced = plan.select(force)
    results: dict[str, StepResult] = {}
    with store_in_use(root):
        for step in plan.steps:
            inputs = tuple(results[ref.step].artifacts[ref.output] for ref in step.inputs)
            results[step.name] = bring(plan.recipe, step, inputs, root, emit, forced=step.name in forced, shared=shared)
    return RunResult(results)


def bring(
    recipe: str,
    step: Step,
    inputs: tuple[Artifact, ...],
    root: Path,
    emit: Callable[[Event], None],
    *,
    forced: bool = False,
    shared: SharedStore | None = None,
) -> StepResult:
    """Bring one step into the store, running it if it is not there; the caller holds ``store_in_use``.

    What ``shared`` has is fetched and not run; what is run is given to it. Of the inputs only the digests count
    then: they may have been made elsewhere.

    Raises:
        BpudeployError: from the stage, or StoreError from the store itself.
    """
    parts = step.key_parts(tuple(a.digest for a in inputs))
    key = step_key(parts)
    record = None if forced else _found(root, key, shared, emit)
    hit = record is not None
    if record is None:
        before = _written(root, key)
        with _to_myself(root, key, shared, lambda: emit(StepWaiting(step.name))):
            if not forced or _written(root, key) != before:
                record = _found(root, key, shared, emit)  # another process may have made it while we waited
            hit = record is not None
            if record is None:
                emit(StepStarted(step.name))
                record = _run_step(step, _here(inputs, root, shared), key, parts, root, emit)
                write_record(root, recipe, record)
                if shared is not None:
                    record = _give(shared, root, record, forced, emit)
    if hit:
        remember(root, recipe, record)
    digests = tuple(o.digest for o in record.outputs)
    emit(StepFinished(step.name, "hit" if hit else "miss", digests, record.seconds, record.peak_mb))
    return StepResult(record, hit, artifacts_of(step, record, root))


def _found(root: Path, key: Key, shared: SharedStore | None, emit: Callable[[Event], None]) -> Record | None:
    """Return the record of ``key`` from the store, or else from the shared one, with its objects; both have it then."""
    found = find_record(root, key)
    if shared is None:
        return found
    return fetch(shared, root, key) if found is None else _give(shared, root, found, False, emit)


@contextmanager
def _to_myself(root: Path, key: Key, shared: SharedStore | None, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a step against the processes of this machine, then against other machines."""
    with step_lock(root, key, waiting):
        if shared is None:
            yield
            return
        with lease(shared, key, waiting):
            yield


def _here(inputs: tuple[Artifact, ...], root: Path, shared: SharedStore | None) -> tuple[Artifact, ...]:
    """Return the inputs as this store has them, fetched if need be."""
    if shared is None:
        return inputs
    for artifact in inputs:
        if not fetch_object(shared, root, artifact.digest):
            raise StoreError(
                f"{shared.url} has no intact object {artifact.digest}, which this step takes",
                hint="run again: the step that makes it then runs again",
            )
    return tuple(Artifact(a.kind, a.digest, object_path(root, a.digest)) for a in inputs)


def _give(shared: SharedStore, root: Path, record: Record, forced: bool, emit: Callable[[Event], None]) -> Record:
    """Give a record to the shared store, unless we may only read there; return the one that counts."""
    try:
        return share(shared, root, record, replace=forced)
    except ReadOnly as error:
        emit(Note(record.step, f"kept on this machine only: {error.message}"))
        return record


def _written(root: Path, key: Key) -> int | None:
    """Return a record's inode, which each write changes: to tell that another forced run has just renewed it."""
    try:
        return record_path(root, key).stat().st_ino
    except FileNotFoundError:
        return None


def _run_step(
    step: Step, inputs: tuple[Artifact, ...], key: Key, parts: object, root: Path, emit: Callable[[Event], None]
) -> Record:
    """Run one step in a fresh folder and move what it gives into the store. The caller holds its lock."""
    folder = root / "work" / key
    with storing(folder):
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed: we hold its lock now
        folder.mkdir(parents=True)
    reset_peak_memory()
    started = time.perf_counter()
    try:
        paths = step.stage.run(Work(folder, emit), step.options, inputs)
        seconds = time.perf_counter() - started
        _check(step, paths, folder)
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
    assert isinstance(parts, dict)
    return Record(step.name, key, parts, outputs, seconds, peak_memory_mb(), int(time.time()))


def _check(step: Step, paths: tuple[Path, ...], folder: Path) -> None:
    """Hold a stage to what it declared."""
    if len(paths) != len(step.stage.gives):
        raise StageContractError(
            f"{step.name} gave {len(paths)} files and declares {len(step.stage.gives)}",
            hint="correct the stage's `gives`",
        )
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or path.is_symlink():
            raise StageContractError(
                f"{step.name} gave {path}, which is not a file of its own under its work folder",
                hint="write under work.dir, or return the path of a file copied there",
            )


def artifacts_of(step: Step, record: Record, root: Path) -> Mapping[str, Artifact]:
    """Return what a record of ``step`` names, as the store at ``root`` has it."""
    return {
        name: Artifact(kind, Digest(o.digest), object_path(root, o.digest))
        for (name, kind), o in zip(step.stage.gives.items(), record.outputs, strict=True)
    }


def reset_peak_memory() -> None:
    """Start a new high-water mark of this process's resident memory, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # peak_memory_mb then gives the peak since the process began: an upper bound


def peak_memory_mb() -> float:
    """Return the resident high-water mark in MB (10^6 bytes) since the last reset."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
