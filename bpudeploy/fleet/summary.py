"""The summary of a rollout as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.fleet.events import Event
from bpudeploy.fleet.history import BoardHistory, RolloutHistory, count_states, rollout_history, utc


def to_json(events: Sequence[Event]) -> dict[str, object]:
    """Return the summary of a rollout: what ``fleet status --json`` prints and a webhook receives.

    It leaves out how a board is reached (address, jump host, serial number), because it may leave the company network.
    Keys may be added, but existing ones stay. Unknown values are null; times are UTC, ISO 8601; waves count from 1.

    ============================  ==================================================================================
    format                        1
    rollout, recipe, by           its name, the recipe's name, and who planned it
    planned_at, last_at, seconds  when it was planned, the time of the last event, and the time between them
    phase                         running, paused, soaking, waiting for approval, stopping or finished
    result, why                   complete, incomplete, failed or aborted; null before it has finished
    failures, bytes_sent          boards that count towards max_failures; bytes sent to all boards
    states                        number of boards in each state
    waves                         of each: wave, boards, states, began_at, ended_at
    boards                        of each: board, target, wave (null: skipped), state, failed, release (to be
                                  installed), before, serves (empty: none), changed, tries, seconds, bytes_sent, detail
    ============================  ==================================================================================

    The state of a board is one of skipped, waiting, updating, rolling back, late, done, rolled back, failed,
    unreachable, reserved; ``states`` also counts "not begun", "not finished" and "failed, rolled back".

    Raises:
        ValueError: the first event is not ``RolloutPlanned``.
    """
    history = rollout_history(events)
    view, planned = history.view, history.planned
    finished = view.result is not None
    return {
        "format": 1,
        "rollout": planned.rollout,
        "recipe": planned.name,
        "by": planned.by,
        "planned_at": _iso(planned.at),
        "last_at": _iso(history.last),
        "seconds": round(history.seconds, 3),
        "phase": view.phase(history.last).value,
        "result": history.result if finished else None,
        "why": view.why if finished else None,
        "failures": view.failures,
        "bytes_sent": history.bytes_sent,
        "states": count_states(view.boards.values(), finished),
        "waves": [_wave(history, wave) for wave in range(view.waves)],
        "boards": [_board(board, history.last) for board in history.boards],
    }


def _wave(history: RolloutHistory, wave: int) -> dict[str, object]:
    view = history.view
    boards = view.boards_of_wave(wave)
    return {
        "wave": wave + 1,
        "boards": len(boards),
        "states": count_states(boards, view.result is not None),
        "began_at": _iso(history.began(wave)),
        "ended_at": _iso(history.wave_ends.get(wave)),
    }


def _board(history: BoardHistory, now: float) -> dict[str, object]:
    board, plan = history.board, history.board.plan
    return {
        "board": plan.board,
        "target": plan.target,
        "wave": None if plan.skipped is not None else plan.wave + 1,
        "state": board.state.value,
        "failed": board.failed,
        "release": plan.release,
        "before": board.before,
        "serves": board.serves,
        "changed": board.changed,
        "tries": history.updates,
        "seconds": round(history.seconds(now), 3),
        "bytes_sent": board.bytes_sent,
        "detail": history.detail,
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")
