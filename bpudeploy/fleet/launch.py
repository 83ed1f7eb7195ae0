"""From an inventory and releases to a rollout: who gets what, what each target's boards need, what comes at the end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bpudeploy.boardjob import opener_of
from bpudeploy.effects.installed import InstalledReleases, installed_releases
from bpudeploy.effects.lock import owner
from bpudeploy.effects.push import PushPolicy
from bpudeploy.effects.remote import is_file
from bpudeploy.effects.verify import installed_binary
from bpudeploy.errors import BpudeployError
from bpudeploy.fleet.controller import Terms, Threads, run_rollout
from bpudeploy.fleet.events import Event, Place, Planned
from bpudeploy.fleet.journal import controlled
from bpudeploy.fleet.journal import planned as planned_at
from bpudeploy.fleet.select import Selector
from bpudeploy.fleet.view import RolloutView, State, view
from bpudeploy.fleet.waves import Layout, lay_out, max_unavailable
from bpudeploy.fleet.windows import open_at, parse
from bpudeploy.fleet.work import Deployment, worker
from bpudeploy.measure import candidate
from bpudeploy.releases import PROJECT, BuiltRelease, find_release
from bpudeploy.spec.fleet import Fleet, RolloutSpec
from bpudeploy.spec.target import Target

ROLLOUTS = PROJECT / "rollouts"
_LOOKERS = 32
"""Boards that are asked at once what they serve."""
_STEP = "plan"


@dataclass(frozen=True)
class Looked:
    """What a board said when a rollout was planned: what it serves, or why it could not be asked."""

    place: Place
    serves: str | None
    bytes_to_send: int | None
    """At most: what it has of the binary under another release is found when it is sent. None: not known."""
    note: str


def planned(
    name: str,
    fleet: Fleet,
    chosen: Selector | None,
    releases: Mapping[str, BuiltRelease],
    targets: Mapping[str, Target],
) -> tuple[Planned, Layout]:
    """Lay a rollout out; nothing is asked and nothing is written.

    Args:
        releases: target name to what its boards are to serve.
    """
    marches = {target: one.march.value for target, one in targets.items()}
    layout = lay_out(fleet, chosen, {target: known.digest for target, known in releases.items()}, marches)
    return _planned(name, fleet.rollout, layout), layout


def _planned(name: str, policy: RolloutSpec, layout: Layout) -> Planned:
    now = time.time()
    return Planned(
        at=now,
        rollout=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H%M%S}-{name}-{secrets.token_hex(2)}",
        name=name,
        by=owner(),
        policy=policy,
        places=layout.places,
        approvals=layout.approvals,
        soaks=layout.soaks,
    )


def deployments(
    places: Sequence[Place], targets: Mapping[str, Target], policy: Callable[[Target], PushPolicy], store: Path
) -> dict[str, Deployment]:
    """Return what the boards of each target need, found again by the digests of their releases.

    Raises:
        BpudeployError: a release is not of this project, or is no longer in the store.
    """
    wanted = {place.target: place.release for place in places if place.release is not None and place.skipped is None}
    found = {}
    for name, digest in wanted.items():
        known = find_release(digest)
        target = targets[name]
        found[name] = Deployment(candidate(known, store), target.board, policy(target), known.built.method, store)
    return found


def look(places: Sequence[Place], deployments: Mapping[str, Deployment]) -> list[Looked]:
    """Ask every board that gets something what it serves, many at once; one that cannot be asked says why."""

    def ask(place: Place) -> Looked:
        if place.skipped is not None or place.release is None:
            return Looked(place, None, None, place.skipped or "nothing is built for it")
        deployment = deployments[place.target]
        release = deployment.candidate.release
        try:
            with opener_of(place.board, place, deployment.board)() as board:
                now = installed_releases(board, step=_STEP)
                there = is_file(board, installed_binary(board, release), step=_STEP)
        except BpudeployError as error:
            return Looked(place, None, None, error.message)
        size = release.binary.path.stat().st_size
        return Looked(place, now.current, 0 if there else size, _said(now, place.release))

    with ThreadPoolExecutor(_LOOKERS) as pool:
        return list(pool.map(ask, places))


def _said(now: InstalledReleases, release: str) -> str:
    if now.current == release:
        return "has it already"
    return "" if now.current else "its first release"


def control(path: Path, deployments: Mapping[str, Deployment], tell: Callable[[Event], None]) -> RolloutView:
    """Bring the rollout at ``path`` to its end, from wherever it is.

    Raises:
        UsageError: somebody else controls it.
    """
    first = planned_at(path)
    policy = first.policy
    windows = [parse(text) for text in policy.windows]
    boards = sum(place.skipped is None for place in first.places)

    def in_window(now: float) -> bool:
        return open_at(windows, datetime.fromtimestamp(now, UTC))

    terms = Terms(max_unavailable(policy.max_unavailable, boards), in_window)
    with controlled(path) as journal:
        return run_rollout(journal, Threads(worker(deployments, policy.gates)), terms, tell)


def left_over(events: Sequence[Event]) -> Planned | None:
    """Return a rollout of one wave for the boards that an earlier one did not reach; None: there are none."""
    before = view(events)
    open_ = (State.UNREACHABLE, State.RESERVED, State.WAITING, State.LATE)
    left = [one.place for one in before.boards.values() if one.state in open_]
    if not left:
        return None
    places = tuple(place.model_copy(update={"wave": 0}) for place in left)
    return _planned(before.planned.name, before.policy, Layout(places, approvals=(), soaks=(0.0,), notes=()))
