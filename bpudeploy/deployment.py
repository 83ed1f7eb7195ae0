"""Deploy one recipe: build its artifacts, push the release, measure it, and summarise the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import load_backend
from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.commits import commit_of
from bpudeploy.digest import canonical
from bpudeploy.errors import UsageError
from bpudeploy.events import Event
from bpudeploy.planning.preview import preview
from bpudeploy.planning.products import BINARY, Products
from bpudeploy.planning.step import Plan
from bpudeploy.release import Manifest, Release
from bpudeploy.releases import PROJECT, RUNS, Built, BuiltRelease, save_release
from bpudeploy.run.journal import event_writer, new_run_directory
from bpudeploy.run.runner import RunResult, run
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.spec.recipe import Outputs
from bpudeploy.spec.target import Connection, Target

if TYPE_CHECKING:
    from bpudeploy.effects.push import PushPolicy
    from bpudeploy.measure import Candidate
    from bpudeploy.results.summary import Summary
    from bpudeploy.summarise import BoardResults


def deploy(
    resolved: LoadedRecipe,
    plan: Plan,
    store: Path,
    destination: Destination,
    emit: Callable[[Event], None],
    force: Collection[str] = (),
) -> Summary:
    """Run a recipe from its sources to measurements on a board; a new run directory keeps the events.

    Args:
        plan: the recipe's plan up to the binary.

    Raises:
        BpudeployError: something failed; store and board stay valid.
    """
    from bpudeploy.measure import candidate
    from bpudeploy.results.report import write_report
    from bpudeploy.results.store import open_results
    from bpudeploy.summarise import stored_measurements, summarise

    started = datetime.now(UTC)
    with open_results(None) as results:  # fail early: it may be of a newer version, or its disk full
        built = build(resolved, plan, store, emit, force)
        release = candidate(built.release, store)
        board = _on_board(resolved, destination, release, built.emit)
        summary = summarise(resolved, built.result, release, board, started, built.directory)
        (built.directory / "summary.json").write_text(summary.model_dump_json())
        write_report(summary, built.directory / "report.html")
        results.append(stored_measurements(summary))
    return summary


@dataclass(frozen=True)
class Build:
    """A built release and its run directory."""

    release: BuiltRelease
    result: RunResult
    directory: Path
    emit: Callable[[Event], None]
    """Emits an event, and writes it to the run directory."""

    def as_release(self) -> Release:
        """Return the release with its binary in the store."""
        return Release(self.release.manifest, Products(self.result.artifacts).binary, self.release.built.built)


def build(
    resolved: LoadedRecipe,
    plan: Plan,
    store: Path,
    emit: Callable[[Event], None],
    force: Collection[str] = (),
    runs: Path = RUNS,
) -> Build:
    """Run a plan up to the binary and save the release in a new run directory, where ``find_release`` finds it.

    Args:
        runs: parent of the run directory; ``find_release`` searches the default.

    Raises:
        UsageError: see ``require_classes``.
        BpudeployError: something failed; the store stays valid.
    """
    require_classes(resolved)
    directory = new_run_directory(runs, resolved.recipe.name)
    write = event_writer(directory)

    def write_and_emit(event: Event) -> None:
        write(event)
        emit(event)

    steps = [{"step": o.step, "state": o.state, "reason": o.reason, "key": o.key} for o in preview(plan, store, force)]
    (directory / "plan.json").write_text(json.dumps(steps, indent=1))
    result = run(plan, store, write_and_emit, force)
    return Build(save_built(resolved, result, directory), result, directory, write_and_emit)


def require_classes(resolved: LoadedRecipe) -> None:
    """Refuse a recipe whose release nobody can check and measure: these need class scores.

    Raises:
        UsageError: it gives feature maps.
    """
    if resolved.recipe.model.outputs is Outputs.FEATURES:
        raise UsageError(
            f"{resolved.recipe.name} gives feature maps, and the benchmark measures top-1",
            hint="`bpudeploy run --until compile` builds everything that can be built",
        )


def save_built(resolved: LoadedRecipe, result: RunResult, directory: Path) -> BuiltRelease:
    """Save the release of a finished plan in a run directory, where ``find_release`` finds it."""
    from bpudeploy.measure import host_answers
    from bpudeploy.results.measurement import BuildFacts, StepFacts

    products, backend = Products(result.artifacts), load_backend(resolved.target.backend)
    manifest = Manifest(
        name=resolved.recipe.name,
        target=resolved.target.name,
        march=resolved.target.march.value,
        backend=backend.name,
        runtime=backend.runtime,
        binary=products.binary.digest,
        steps=result.digests,
    )
    compiled = result.steps[BINARY].record
    facts = BuildFacts(
        binary_bytes=products.binary.path.stat().st_size,
        compiled=compiled.made,
        compile_seconds=compiled.seconds,
        commit=commit_of(resolved.files[:-1]),  # the last is the target's file, which may be built in
        steps={
            name: StepFacts(
                parts=json.loads(canonical(step.record.parts)), digests=tuple(o.digest for o in step.record.outputs)
            )
            for name, step in result.steps.items()
        },
    )
    built = Built(built=compiled.made, method=resolved.recipe.benchmark, facts=facts)
    return save_release(directory, manifest, built, host_answers(products))


def board_opener(target: Target, address: str | None) -> BoardOpener:
    """Return a function that opens the board; does not connect yet.

    Raises:
        UsageError: the address is wrong, missing, or given for a target that starts its own board.
    """
    spec = target.board
    if spec.connection is Connection.EMBEDDED:
        if address is not None:
            raise UsageError(
                f"target {target.name} starts its own board: --board cannot be used",
                hint="leave --board out, or use a target that is reached over SSH, like cpu-ssh",
            )

        def open_local() -> AbstractContextManager[Board]:
            from bpudeploy.boards.embedded import open_embedded

            return open_embedded(PROJECT / "boards" / target.name, name=target.name, root=spec.root)

        return open_local
    if address is None:
        raise UsageError(
            f"target {target.name} needs the address of a board",
            hint="add --board [USER@]HOST[:PORT], or stop before the board with --until compile",
        )
    from bpudeploy.boardjob import opener_of

    return opener_of(address, address, spec)


@dataclass(frozen=True)
class Destination:
    """How to open the board, and the options of a push to it."""

    open: BoardOpener
    policy: PushPolicy


def destination(target: Target, address: str | None, key: Path | None, allow_downgrade: bool) -> Destination:
    """Return the destination of a release, see ``board_opener`` and ``policy_of``; does not connect yet."""
    return Destination(board_opener(target, address), policy_of(target, key, allow_downgrade))


def policy_of(target: Target, key: Path | None, allow_downgrade: bool) -> PushPolicy:
    """Return the options of a push to a board of this target, with the signing key.

    A board that the run starts itself has its own key, created on first use, and accepts downgrades.

    Args:
        key: the signing key's file; None is the user's own.

    Raises:
        UsageError: there is no usable key, or a key was given for a target that does not use it.
    """
    from bpudeploy.effects.push import PushPolicy
    from bpudeploy.signing import default_key, load_key, new_key

    spec = target.board
    embedded = spec.connection is Connection.EMBEDDED
    if key is not None and (embedded or not spec.signed):
        reason = "starts its own board with its own key" if embedded else "has board.signed: false"
        raise UsageError(f"target {target.name} {reason}: --key cannot be used", hint="leave --key out")
    if not spec.signed:
        return PushPolicy(None, spec.keep, allow_downgrade)
    own = PROJECT / "boards" / target.name / "signing_key"
    if embedded:
        return PushPolicy(load_key(own) if own.exists() else new_key(own), spec.keep, allow_downgrade=True)
    return PushPolicy(load_key(key or default_key()), spec.keep, allow_downgrade)


def _on_board(
    resolved: LoadedRecipe, destination: Destination, release: Candidate, emit: Callable[[Event], None]
) -> BoardResults:
    from bpudeploy.boardjob import on_board
    from bpudeploy.effects.trust import TrustMode, trust
    from bpudeploy.summarise import BoardResults

    policy = destination.policy
    with on_board(destination.open, emit) as job:
        if policy.key is not None and resolved.target.board.connection is Connection.EMBEDDED:
            trust(job.board, policy.key.public, TrustMode.REPLACE)  # key and board belong to this project
        pushed = job.push(release.release, policy)
        checked = job.check_or_roll_back(release, policy, pushed)
        (measured,) = job.measure([release], resolved.recipe.benchmark)
    return BoardResults(pushed, checked, measured)
