"""Plan a rollout from an inventory and releases, preview it on the boards, and run it to its end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bpudeploy.boardjob import opener_of
from bpudeploy.effects.blobs import is_file
from bpudeploy.effects.installed import installed_releases
from bpudeploy.effects.lock import owner
from bpudeploy.effects.push import PushPolicy
from bpudeploy.effects.verify import installed_binary
from bpudeploy.errors import BpudeployError
from bpudeploy.fleet.controller import ControllerSettings, WorkerThreads, run_rollout
from bpudeploy.fleet.events import BoardPlan, Event, RolloutPlanned
from bpudeploy.fleet.journal import read_plan, take_control
from bpudeploy.fleet.select import Selector
from bpudeploy.fleet.view import BoardState, RolloutView, replay
from bpudeploy.fleet.waves import Layout, assign_waves, max_unavailable
from bpudeploy.fleet.windows import open_at, parse
from bpudeploy.fleet.worker import Deployment, run_task
from bpudeploy.measure import candidate
from bpudeploy.releases import PROJECT, BuiltRelease, find_release
from bpudeploy.spec.fleet import Fleet, RolloutSpec
from bpudeploy.spec.target import Target

ROLLOUTS = PROJECT / "rollouts"
_PREVIEW_THREADS = 32
_STEP = "plan"
_LEFT = (BoardState.UNREACHABLE, BoardState.RESERVED, BoardState.WAITING, BoardState.LATE)


@dataclass(frozen=True)
class BoardPreview:
    """A board's plan, and what the board serves now or why it could not be asked."""

    plan: BoardPlan
    serves: str | None
    bytes_to_send: int | None
    """At most: parts that the board has under another release are found when sending. None: unknown."""
    note: str


def plan_rollout(
    name: str,
    fleet: Fleet,
    selector: Selector | None,
    releases: Mapping[str, BuiltRelease],
    targets: Mapping[str, Target],
) -> tuple[RolloutPlanned, Layout]:
    """Plan a rollout; contacts no board and writes nothing.

    Args:
        selector: the boards to update; None: all.
        releases: target name to the release for its boards.
    """
    marches = {target: one.march.value for target, one in targets.items()}
    digests = {target: release.digest for target, release in releases.items()}
    layout = assign_waves(fleet, selector, digests, marches)
    return _planned(name, fleet.rollout, layout), layout


def _planned(name: str, policy: RolloutSpec, layout: Layout) -> RolloutPlanned:
    now = time.time()
    return RolloutPlanned(
        at=now,
        rollout=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H%M%S}-{name}-{secrets.token_hex(2)}",
        name=name,
        by=owner(),
        policy=policy,
        places=layout.plans,
        approvals=layout.approvals,
        soaks=layout.soaks,
    )


def load_deployments(
    plans: Sequence[BoardPlan], targets: Mapping[str, Target], policy: Callable[[Target], PushPolicy], store: Path
) -> dict[str, Deployment]:
    """Return what to deploy to the boards of each target, by the digests of the planned releases.

    Raises:
        BpudeployError: a release is not of this project, or is no longer in the store.
    """
    digests = {plan.target: plan.release for plan in plans if plan.release is not None and plan.skipped is None}
    deployments = {}
    for name, digest in digests.items():
        built, target = find_release(digest), targets[name]
        deployments[name] = Deployment(candidate(built, store), target.board, policy(target), built.built.method, store)
    return deployments


def preview(plans: Sequence[BoardPlan], deployments: Mapping[str, Deployment]) -> list[BoardPreview]:
    """Ask every board that gets a release what it serves, concurrently; errors become notes."""

    def ask(plan: BoardPlan) -> BoardPreview:
        if plan.skipped is not None or plan.release is None:
            return BoardPreview(plan, None, None, plan.skipped or "no release for its target")
        deployment = deployments[plan.target]
        release = deployment.candidate.release
        try:
            opener = opener_of(plan.board, plan.address, deployment.board, jump=plan.jump, root=plan.root)
            with opener() as board:
                current = installed_releases(board, step=_STEP).current
                there = is_file(board, installed_binary(board, release), step=_STEP)
        except BpudeployError as error:
            return BoardPreview(plan, None, None, error.message)
        note = "already up to date" if current == plan.release else "" if current else "its first release"
        return BoardPreview(plan, current, 0 if there else release.binary.path.stat().st_size, note)

    with ThreadPoolExecutor(_PREVIEW_THREADS) as pool:
        return list(pool.map(ask, plans))


def control(path: Path, deployments: Mapping[str, Deployment], listener: Callable[[Event], None]) -> RolloutView:
    """Run the rollout of a journal to its end, from wherever it is.

    Raises:
        UsageError: another process controls it.
    """
    planned = read_plan(path)
    policy = planned.policy
    windows = [parse(text) for text in policy.windows]
    boards = sum(plan.skipped is None for plan in planned.places)

    def in_window(now: float) -> bool:
        return open_at(windows, datetime.fromtimestamp(now, UTC))

    settings = ControllerSettings(max_unavailable(policy.max_unavailable, boards), in_window)
    with take_control(path) as journal:
        pool = WorkerThreads(partial(run_task, deployments, policy.gates))
        return run_rollout(journal, pool, settings, listener)


def plan_reconcile(events: Sequence[Event]) -> RolloutPlanned | None:
    """Plan a rollout of one wave for the boards that an earlier rollout did not reach; None if there are none."""
    view = replay(events)
    plans = tuple(b.plan.model_copy(update={"wave": 0}) for b in view.boards.values() if b.state in _LEFT)
    if not plans:
        return None
    return _planned(view.planned.name, view.policy, Layout(plans, approvals=(), soaks=(0.0,), notes=()))
