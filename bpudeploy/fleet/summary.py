"""The sum of a rollout for machines."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.fleet.chronicle import Chronicle, Told, chronicle, standings, utc
from bpudeploy.fleet.events import Event


def to_json(events: Sequence[Event]) -> dict[str, object]:
    """Return the sum of a rollout: what ``fleet status --json`` prints, and what a webhook gets.

    How a board is reached (its address, its jump host, its serial number) is left out, for this may leave the house.
    Keys may be added; these stay. What is not known is null; times are UTC, ISO 8601; waves count from 1.

    ============================  ==================================================================================
    format                        1
    rollout, recipe, by           its name, the recipe's, and who planned it
    planned_at, last_at, seconds  when it was planned, when the last thing happened, and what lies between
    phase                         running, paused, soaking, waiting for approval, stopping or finished
    result, why                   complete, incomplete, failed or aborted; null before it has finished
    failures, bytes_sent          boards that count towards the threshold; bytes to all boards
    states                        how many boards stand where
    waves                         of each: wave, boards, states, began_at, ended_at
    boards                        of each: board, target, wave (null: skipped), state, failed, release (what it is to
                                  get), before, serves (empty: nothing), changed, tries, seconds, bytes_sent, detail
    ============================  ==================================================================================

    The state of a board is one of skipped, waiting, updating, rolling back, late, done, rolled back, failed,
    unreachable, reserved; what ``states`` counts says more of some: not begun, not finished, "failed, rolled back".

    Raises:
        ValueError: the first event does not say what the rollout is.
    """
    told = chronicle(events)
    known, planned = told.view, told.planned
    return {
        "format": 1,
        "rollout": planned.rollout,
        "recipe": planned.name,
        "by": planned.by,
        "planned_at": _iso(planned.at),
        "last_at": _iso(told.last),
        "seconds": round(told.seconds, 3),
        "phase": known.phase(told.last).value,
        "result": None if known.result is None else known.result.value,
        "why": None if known.result is None else known.why,
        "failures": known.failures,
        "bytes_sent": told.bytes_sent,
        "states": standings(told.boards),
        "waves": [_wave(told, wave, boards) for wave, boards in told.waves.items()],
        "boards": [_board(one, told.last) for one in told.boards],
    }


def _wave(told: Chronicle, wave: int, boards: Sequence[Told]) -> dict[str, object]:
    return {
        "wave": wave + 1,
        "boards": len(boards),
        "states": standings(boards),
        "began_at": _iso(told.began(wave)),
        "ended_at": _iso(told.wave_ends.get(wave)),
    }


def _board(told: Told, now: float) -> dict[str, object]:
    board, place = told.board, told.board.place
    return {
        "board": place.board,
        "target": place.target,
        "wave": None if place.skipped is not None else place.wave + 1,
        "state": board.state.value,
        "failed": board.failed,
        "release": place.release,
        "before": board.before,
        "serves": board.serves,
        "changed": board.changed,
        "tries": told.tries,
        "seconds": round(told.seconds(now), 3),
        "bytes_sent": board.bytes_sent,
        "detail": told.detail,
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")
