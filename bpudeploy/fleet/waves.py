"""Who gets what, and in which wave: a fleet, a selector and the releases at hand, laid out as a rollout's places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from bpudeploy.fleet.events import Place
from bpudeploy.fleet.select import Selector, parse
from bpudeploy.spec.fleet import Fleet, Wave


@dataclass(frozen=True)
class Layout:
    """A rollout's boards in its waves; the first three are those of ``events.Planned``."""

    places: tuple[Place, ...]
    """In the order of the fleet's file. A board that is skipped says why, and stands in wave 0."""
    approvals: tuple[int, ...]
    soaks: tuple[float, ...]
    """Seconds, one a wave: there are as many waves."""
    notes: tuple[str, ...]
    """What became of waves that no board is in."""


@dataclass(frozen=True)
class _Filled:
    boards: tuple[str, ...]
    approve: bool
    soak_seconds: float


def lay_out(fleet: Fleet, chosen: Selector | None, releases: Mapping[str, str], marches: Mapping[str, str]) -> Layout:
    """Return every chosen board in exactly one wave, or skipped for a reason; other boards are not in it.

    Waves are filled in their order. Each takes from the boards that no earlier wave has: all that its selector
    matches, or so many (``count``, ``percent`` of all that are updated, rounded up) in the order of the fleet's file.
    What is left is the last wave. A wave that nobody is in is left out, with a note; if it was to be approved, the
    next one is instead, for somebody wanted to be asked before the rollout goes on.

    Args:
        chosen: which boards; None: all.
        releases: a target's name to the release that was built for it.
        marches: a target's name to its march, of every target in the fleet.
    """
    names = [
        name
        for name, board in fleet.boards.items()
        if chosen is None or chosen.matches(name, board, marches[board.target])
    ]
    updated = [name for name in names if fleet.boards[name].target in releases]
    waves, notes = _fill(fleet, updated, marches)
    wave_of = {name: number for number, wave in enumerate(waves) for name in wave.boards}
    return Layout(
        places=tuple(_place(fleet, name, releases, wave_of) for name in names),
        approvals=tuple(number for number, wave in enumerate(waves) if wave.approve),
        soaks=tuple(wave.soak_seconds for wave in waves),
        notes=tuple(notes),
    )


def max_unavailable(share: int | str, boards: int) -> int:
    """Return how many of ``boards`` may be out of service at once: a percentage is rounded up, and it is 1 at least."""
    if isinstance(share, int):
        return max(1, share)
    return max(1, _part(Fraction(share.removesuffix("%")), boards))


def _part(percent: Fraction, boards: int) -> int:
    return -int(-percent * boards // 100)  # rounded up


def _fill(fleet: Fleet, updated: list[str], marches: Mapping[str, str]) -> tuple[list[_Filled], list[str]]:
    rollout, left, waves, notes = fleet.rollout, updated, list[_Filled](), list[str]()
    asked = False
    for number, wave in enumerate(rollout.waves, 1):
        taken = _taken(fleet, wave, left, len(updated), marches)
        asked = asked or wave.approve
        if not taken:
            goes_on = ", and its approval is asked for before the next one" if wave.approve and left else ""
            notes.append(f"wave {number} of the policy ({_named(wave)}) has no board left to take: left out{goes_on}")
            continue
        soak = rollout.soak_seconds if wave.soak_seconds is None else wave.soak_seconds
        waves.append(_Filled(tuple(taken), asked, soak))
        asked, gone = False, set(taken)
        left = [name for name in left if name not in gone]
    if left:
        waves.append(_Filled(tuple(left), asked, rollout.soak_seconds))
    return waves, notes


def _taken(fleet: Fleet, wave: Wave, left: list[str], of: int, marches: Mapping[str, str]) -> list[str]:
    if wave.select is not None:
        selector = parse(wave.select)
        boards = fleet.boards
        return [name for name in left if selector.matches(name, boards[name], marches[boards[name].target])]
    if wave.count is not None:
        return left[: wave.count]
    assert wave.percent is not None
    return left[: _part(Fraction(str(wave.percent)), of)]


def _named(wave: Wave) -> str:
    if wave.select is not None:
        return wave.select
    return f"count {wave.count}" if wave.count is not None else f"{wave.percent:g} %"


def _place(fleet: Fleet, name: str, releases: Mapping[str, str], wave_of: Mapping[str, int]) -> Place:
    board = fleet.boards[name]
    release = releases.get(board.target)
    return Place(
        board=name,
        address=board.address,
        jump=board.jump,
        board_id=board.board_id,
        root=board.root,
        target=board.target,
        release=release,
        wave=wave_of.get(name, 0),
        skipped=None if release is not None else f"nothing is built for target {board.target}",
    )
