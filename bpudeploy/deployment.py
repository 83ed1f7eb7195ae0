"""One recipe, the whole way: build the plan's artifacts, push the release, measure it, say what came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bpudeploy.backends.base import Backend
from bpudeploy.boards.base import Board, BoardOpener
from bpudeploy.commits import commit_of
from bpudeploy.digest import canonical
from bpudeploy.errors import UsageError
from bpudeploy.events import Event
from bpudeploy.planning.look import look
from bpudeploy.planning.products import BINARY, Products
from bpudeploy.planning.step import Plan
from bpudeploy.release import Manifest, Release
from bpudeploy.releases import PROJECT, RUNS, Built, BuiltRelease, keep
from bpudeploy.run.journal import event_writer, new_run_directory
from bpudeploy.run.runner import RunResult, run
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.spec.target import Connection, Target

if TYPE_CHECKING:
    from bpudeploy.effects.push import Policy
    from bpudeploy.measure import Candidate
    from bpudeploy.results.summary import Summary
    from bpudeploy.summarise import BoardResults


@dataclass(frozen=True)
class Orders:
    """What the one who deploys decides, not the recipe or the target."""

    key: Path | None = None
    """The signing key's file; None is the user's own."""
    allow_downgrade: bool = False


def deploy(
    resolved: LoadedRecipe,
    backend: Backend,
    plan: Plan,
    store: Path,
    destination: Destination,
    emit: Callable[[Event], None],
    force: Collection[str] = (),
) -> Summary:
    """Run a recipe from its sources to numbers from a board; a new run directory keeps every event.

    Args:
        plan: the recipe's, up to the binary.

    Raises:
        BpudeployError: what failed. The store and the board are as good as before.
    """
    from bpudeploy.measure import candidate
    from bpudeploy.results.report import write_report
    from bpudeploy.results.store import open_results
    from bpudeploy.summarise import kept, summarise

    started = datetime.now(UTC)
    with open_results(None) as results:  # before hours of work: it may be of a newer version, or its disk full
        built = build(resolved, backend, plan, store, emit, force)
        chosen = candidate(built.release, store)
        done = _on_board(resolved, destination, chosen, built.emit)
        summary = summarise(resolved, built.result, chosen, done, started, built.directory)
        (built.directory / "summary.json").write_text(summary.model_dump_json())
        write_report(summary, built.directory / "report.html")
        results.append(kept(summary))
    return summary


@dataclass(frozen=True)
class Build:
    """A release that was built, and where its run is kept."""

    release: BuiltRelease
    result: RunResult
    directory: Path
    emit: Callable[[Event], None]
    """Reports an event, and keeps it with the run."""

    def as_release(self) -> Release:
        """Return the release with its binary in the store."""
        return Release(self.release.manifest, Products(self.result.artifacts).binary, self.release.built.built)


def build(
    resolved: LoadedRecipe,
    backend: Backend,
    plan: Plan,
    store: Path,
    emit: Callable[[Event], None],
    force: Collection[str] = (),
    runs: Path = RUNS,
) -> Build:
    """Run a plan up to the binary and keep the release in a run directory, where ``find_release`` finds it.

    Args:
        runs: the run directories; elsewhere, the release is not the latest of its name.

    Raises:
        BpudeployError: what failed. The store is as good as before.
    """
    directory = new_run_directory(runs, resolved.recipe.name)
    write = event_writer(directory)

    def keep_and_emit(event: Event) -> None:
        write(event)
        emit(event)

    outlooks = [{"step": o.step, "state": o.state, "reason": o.reason, "key": o.key} for o in look(plan, store, force)]
    (directory / "plan.json").write_text(json.dumps(outlooks, indent=1))
    result = run(plan, store, keep_and_emit, force)
    return Build(keep_built(resolved, backend, result, directory), result, directory, keep_and_emit)


def keep_built(resolved: LoadedRecipe, backend: Backend, result: RunResult, directory: Path) -> BuiltRelease:
    """Keep the release that a plan gave in a run directory, where ``find_release`` finds it."""
    from bpudeploy.measure import host_answers

    answers = host_answers(Products(result.artifacts))
    return keep(directory, _manifest(resolved, backend, result), _built(resolved, result), answers)


def board_opener(target: Target, address: str | None) -> BoardOpener:
    """Return what opens the board; connects to nothing yet.

    Raises:
        UsageError: an address is wrong, missing, or given for a board that the run starts itself.
    """
    spec = target.board
    if spec.connection is Connection.EMBEDDED:
        if address is not None:
            raise UsageError(
                f"target {target.name} starts its own board, so --board has no place",
                hint="leave --board out, or use a target that is reached over SSH, like cpu-ssh",
            )

        def open_local() -> AbstractContextManager[Board]:
            from bpudeploy.boards.embedded import open_embedded

            return open_embedded(PROJECT / "boards" / target.name, name=target.name, root=spec.root)

        return open_local
    if address is None:
        raise UsageError(
            f"target {target.name} is reached over SSH: which board?",
            hint="add --board [USER@]HOST[:PORT], or stop before with --until compile",
        )
    from bpudeploy.boards.address import Address
    from bpudeploy.boards.ssh import open_ssh

    where = Address.parse(address)
    return lambda: open_ssh(where, name=address, python=spec.python, root=PurePosixPath(spec.root))


@dataclass(frozen=True)
class Destination:
    """How the board is reached, and what a push to it may do."""

    open: BoardOpener
    policy: Policy


def destination(target: Target, address: str | None, orders: Orders = Orders()) -> Destination:
    """Return where a release goes; connects to nothing yet.

    Raises:
        UsageError: the address or the signing key is wrong, missing, or given for a board that the run starts itself.
    """
    return Destination(board_opener(target, address), policy_of(target, orders))


def policy_of(target: Target, orders: Orders) -> Policy:
    """Return what a push to a board of this kind may do, with the key that signs.

    A board that the run starts itself gets a key of its own, made here once, and may go back to an older build.

    Raises:
        UsageError: there is no key that can be used, or none has a place.
    """
    from bpudeploy.effects.push import Policy
    from bpudeploy.signing import default_key, load_key, new_key

    spec = target.board
    embedded = spec.connection is Connection.EMBEDDED
    if orders.key is not None and (embedded or not spec.signed):
        whose = "starts its own board, with a key of its own" if embedded else "says board.signed: false"
        raise UsageError(f"target {target.name} {whose}, so --key has no place", hint="leave --key out")
    if not spec.signed:
        return Policy(None, spec.keep, orders.allow_downgrade)
    own = PROJECT / "boards" / target.name / "signing_key"
    if embedded:
        return Policy(load_key(own) if own.exists() else new_key(own), spec.keep, allow_downgrade=True)
    return Policy(load_key(orders.key or default_key()), spec.keep, orders.allow_downgrade)


def _manifest(resolved: LoadedRecipe, backend: Backend, result: RunResult) -> Manifest:
    """Return what boards are told of the binary."""
    return Manifest(
        name=resolved.recipe.name,
        target=resolved.target.name,
        march=resolved.target.march.value,
        backend=backend.name,
        runtime=backend.runtime,
        binary=Products(result.artifacts).binary.digest,
        steps=result.digests,
    )


def _built(resolved: LoadedRecipe, result: RunResult) -> Built:
    from bpudeploy.results.measurement import BuildFacts, StepFacts

    compiled = result.steps[BINARY].record
    facts = BuildFacts(
        binary_bytes=compiled.outputs[0].size,
        compiled=compiled.made,
        compile_seconds=compiled.seconds,
        commit=commit_of(resolved.files[:-1]),  # the last is the target's, which may be built in
        steps={
            name: StepFacts(
                parts=json.loads(canonical(step.record.parts)), digests=tuple(o.digest for o in step.record.outputs)
            )
            for name, step in result.steps.items()
        },
    )
    return Built(built=compiled.made, method=resolved.recipe.benchmark, facts=facts)


def _on_board(
    resolved: LoadedRecipe, destination: Destination, chosen: Candidate, emit: Callable[[Event], None]
) -> BoardResults:
    from bpudeploy.boardjob import on_board
    from bpudeploy.effects.trust import Trust, trust
    from bpudeploy.summarise import BoardResults

    policy = destination.policy
    with on_board(destination.open, emit) as job:
        if policy.key is not None and resolved.target.board.connection is Connection.EMBEDDED:
            trust(job.board, policy.key.public, Trust.REPLACE)  # key and board are this project's own
        pushed = job.push(chosen.release, policy)
        checked = job.check_or_go_back(chosen, policy, pushed)
        (measured,) = job.measure([chosen], resolved.recipe.benchmark)
    return BoardResults(pushed, checked, measured)
