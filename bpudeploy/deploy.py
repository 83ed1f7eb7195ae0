"""One recipe, the whole way: build the plan's artifacts, push the release, measure it, say what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bpudeploy.backends.base import DRIVEN, Backend
from bpudeploy.boards.base import Board
from bpudeploy.errors import UsageError
from bpudeploy.events import Event, StepFinished, StepStarted
from bpudeploy.plan import pipeline
from bpudeploy.plan.look import look
from bpudeploy.plan.step import Plan
from bpudeploy.release import Manifest, Release
from bpudeploy.run.journal import event_writer, new_run_directory
from bpudeploy.run.runner import RunResult, run
from bpudeploy.spec.load import Resolved
from bpudeploy.spec.target import Connection, Target

if TYPE_CHECKING:
    from bpudeploy.effects.push import Policy, Pushed
    from bpudeploy.results.measurement import Measurement
    from bpudeploy.results.summary import Summary

PROJECT = Path(".bpudeploy")


@dataclass(frozen=True)
class Orders:
    """What the one who deploys decides, not the recipe or the target."""

    key: Path | None = None
    """The signing key's file; None is the user's own."""
    allow_downgrade: bool = False


def deploy(
    resolved: Resolved,
    backend: Backend,
    plan: Plan,
    store: Path,
    address: str | None,
    emit: Callable[[Event], None],
    force: Collection[str] = (),
    orders: Orders = Orders(),
) -> Summary:
    """Run a recipe from its sources to numbers from a board; everything said lands in a new run directory.

    Args:
        plan: the recipe's, up to the binary.

    Raises:
        BpudeployError: what failed. The store and the board are as good as before.
    """
    require_driver(resolved, backend)
    board = board_opener(resolved.target, address)
    policy = policy_of(resolved.target, orders)
    started = datetime.now(UTC)
    directory = new_run_directory(PROJECT / "runs", resolved.recipe.name)
    write = event_writer(directory)

    def tell(event: Event) -> None:
        write(event)
        emit(event)

    outlooks = [{"step": o.step, "state": o.state, "reason": o.reason, "key": o.key} for o in look(plan, store, force)]
    (directory / "plan.json").write_text(json.dumps(outlooks, indent=1))
    result = run(plan, store, tell, force)
    release = release_of(resolved, backend, result)
    (directory / "release.json").write_text(release.manifest.to_json())
    pushed, measured = _on_board(resolved, board, result, release, policy, tell)
    from bpudeploy.results.report import write_report
    from bpudeploy.summarise import summarise

    summary = summarise(resolved, result, release, pushed, measured, started, directory)
    (directory / "summary.json").write_text(summary.model_dump_json())
    write_report(summary, directory / "report.html")
    return summary


def require_driver(resolved: Resolved, backend: Backend) -> None:
    """Refuse a binary that no board could run, before hours of compiling.

    Raises:
        UsageError: the board's agent has no driver for the backend's runtime.
    """
    if backend.runtime not in DRIVEN:
        raise UsageError(
            f"target {resolved.target.name} runs binaries with {backend.runtime}, which has no driver on boards yet",
            hint="`--until compile` builds the binary; `--set target=local` runs on this machine's CPU",
        )


def board_opener(target: Target, address: str | None) -> Callable[[], AbstractContextManager[Board]]:
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


def release_of(resolved: Resolved, backend: Backend, result: RunResult) -> Release:
    """Return what boards are given: the binary, and a manifest with the digests of all that led to it."""
    binary = result.artifact(pipeline.BINARY)
    manifest = Manifest(
        name=resolved.recipe.name,
        target=resolved.target.name,
        march=resolved.target.march.value,
        backend=backend.name,
        runtime=backend.runtime.value,
        binary=binary.digest,
        steps={name: tuple(a.digest for a in step.artifacts) for name, step in result.steps.items()},
    )
    return Release(manifest, binary, result.steps[pipeline.BINARY].record.made)


def _on_board(
    resolved: Resolved,
    opener: Callable[[], AbstractContextManager[Board]],
    result: RunResult,
    release: Release,
    policy: Policy,
    emit: Callable[[Event], None],
) -> tuple[Pushed, Measurement]:
    from bpudeploy.effects.bench import bench
    from bpudeploy.effects.push import push
    from bpudeploy.effects.trust import Trust, trust

    samples = result.artifact(pipeline.EVALUATION)
    emit(StepStarted("push"))
    with opener() as board:
        if policy.key is not None and resolved.target.board.connection is Connection.EMBEDDED:
            trust(board, policy.key.public, Trust.REPLACE)  # key and board are this project's own
        pushed = push(board, release, policy, emit)
        emit(StepFinished("push", "miss" if pushed.changed else "hit", (release.digest,), pushed.seconds))
        emit(StepStarted("benchmark"))
        before = time.perf_counter()
        measured = bench(board, release, samples, resolved.recipe.benchmark, emit)
        emit(StepFinished("benchmark", "miss", (), time.perf_counter() - before, measured.peak_memory_mb))
    return pushed, measured
