"""Assign the selected boards of a fleet to releases and waves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from bpudeploy.fleet.events import BoardPlan
from bpudeploy.fleet.select import Selector, parse
from bpudeploy.spec.fleet import Fleet, Wave


@dataclass(frozen=True)
class Layout:
    """The boards of a rollout in its waves; see ``events.RolloutPlanned``."""

    plans: tuple[BoardPlan, ...]
    """In the order of the fleet file. A skipped board is in wave 0 and says why it is skipped."""
    approvals: tuple[int, ...]
    soaks: tuple[float, ...]
    """Seconds, one per wave."""
    notes: tuple[str, ...]
    """About waves of the policy that have no board."""


_FilledWave = tuple[list[str], bool, float]
"""Its boards, whether it needs an approval, and the seconds of its soak."""


def assign_waves(
    fleet: Fleet, selector: Selector | None, releases: Mapping[str, str], marches: Mapping[str, str]
) -> Layout:
    """Put every selected board into exactly one wave, or skip it with a reason.

    Waves are filled in order, from the boards that no earlier wave has: all that the selector matches, or a number of
    them (``count``, or ``percent`` of all updated boards, rounded up) in the order of the fleet file. The rest is the
    last wave. A wave without boards is dropped with a note; an approval that it needs moves to the next wave, because
    somebody wanted to be asked before the rollout continues.

    Args:
        selector: the boards to update; None: all.
        releases: target name to the release built for it.
        marches: target name to march, for every target in the fleet.
    """
    names = [
        name
        for name, board in fleet.boards.items()
        if selector is None or selector.matches(name, board, marches[board.target])
    ]
    updated = [name for name in names if fleet.boards[name].target in releases]
    waves, notes = _fill(fleet, updated, marches)
    wave_of = {name: number for number, (boards, _, _) in enumerate(waves) for name in boards}
    return Layout(
        plans=tuple(_board_plan(fleet, name, releases, wave_of) for name in names),
        approvals=tuple(number for number, (_, approve, _) in enumerate(waves) if approve),
        soaks=tuple(soak for _, _, soak in waves),
        notes=tuple(notes),
    )


def max_unavailable(share: int | str, boards: int) -> int:
    """Return how many of ``boards`` may be out of service at once, at least 1; a percentage is rounded up."""
    if isinstance(share, int):
        return max(1, share)
    return max(1, _percent_of(Fraction(share.removesuffix("%")), boards))


def _percent_of(percent: Fraction, boards: int) -> int:
    return -int(-percent * boards // 100)  # rounded up


def _fill(fleet: Fleet, updated: list[str], marches: Mapping[str, str]) -> tuple[list[_FilledWave], list[str]]:
    rollout, left, waves, notes = fleet.rollout, updated, list[_FilledWave](), list[str]()
    approve = False
    for number, wave in enumerate(rollout.waves, 1):
        taken = _take(fleet, wave, left, len(updated), marches)
        approve = approve or wave.approve
        if not taken:
            moved = "; the next wave needs its approval" if wave.approve and left else ""
            notes.append(f"wave {number} of the policy ({_label(wave)}) has no boards and is skipped{moved}")
            continue
        soak = rollout.soak_seconds if wave.soak_seconds is None else wave.soak_seconds
        waves.append((taken, approve, soak))
        approve, done = False, set(taken)
        left = [name for name in left if name not in done]
    if left:
        waves.append((left, approve, rollout.soak_seconds))
    return waves, notes


def _take(fleet: Fleet, wave: Wave, left: list[str], updated: int, marches: Mapping[str, str]) -> list[str]:
    if wave.select is not None:
        selector = parse(wave.select)
        boards = fleet.boards
        return [name for name in left if selector.matches(name, boards[name], marches[boards[name].target])]
    if wave.count is not None:
        return left[: wave.count]
    assert wave.percent is not None
    return left[: _percent_of(Fraction(str(wave.percent)), updated)]


def _label(wave: Wave) -> str:
    if wave.select is not None:
        return wave.select
    return f"count {wave.count}" if wave.count is not None else f"{wave.percent:g} %"


def _board_plan(fleet: Fleet, name: str, releases: Mapping[str, str], wave_of: Mapping[str, int]) -> BoardPlan:
    board = fleet.boards[name]
    release = releases.get(board.target)
    return BoardPlan(
        board=name,
        address=board.address,
        jump=board.jump,
        board_id=board.board_id,
        root=board.root,
        target=board.target,
        release=release,
        wave=wave_of.get(name, 0),
        skipped=None if release is not None else f"no release for target {board.target}",
    )
