"""The timeline of a rollout as a self-contained SVG: one row per board, grouped by wave.

Here is what happened and in which row; ``timeline.svg.jinja`` has the shapes, colours and legend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bpudeploy.fleet.events import TaskKind, TaskStatus
from bpudeploy.fleet.history import (
    Attempt,
    BoardHistory,
    Milestone,
    RolloutHistory,
    count_states,
    format_round_duration,
    utc,
)
from bpudeploy.fleet.scale import Scale
from bpudeploy.fleet.view import BoardState
from bpudeploy.results.drawing import page, shorter

_WIDTH, _LABEL, _RIGHT = 1080, 132, 146
_LANE, _LANES, _AXIS, _LEGEND = 13, 6, 18, 44
_FEW = 40
_ACTIVITY_BEFORE = {"connected": "connect", "pushed": "push", "activated": "check", "checked": "check"}
"""The activity that ends with a step; other steps do not change the activity."""
_NEXT_ACTIVITY = {"connect": "push", "push": "check", "check": "check"}
_Span = tuple[str, float, float]
"""What a board did for a time: its class in the SVG, when it began and when it ended."""
_MARKED = (TaskStatus.FAILED, TaskStatus.UNREACHABLE, TaskStatus.RESERVED)


def timeline(history: RolloutHistory) -> str:
    """Return the SVG. Long idle times are shortened to a gap that is labelled with its duration."""
    busy = [(a.began, a.end(history.last)) for board in history.boards for a in board.attempts]
    scale = Scale.of(busy, history.planned.at, history.last, _LABEL, _WIDTH - _RIGHT)
    # the figure begins with the first controller
    first = next((m for m in history.milestones if m.kind == "controller"), None)
    lines = [m for m in history.milestones if m is not first]
    labels = list(_line_labels(lines, scale))
    lanes = 1 + max((lane for _, lane, _ in labels), default=-1)
    top = _LEGEND + lanes * _LANE + _AXIS
    height = 17 if len(history.boards) <= _FEW else 13
    groups, bottom = _groups(history, top + 4.0, height)
    values = {
        "history": history,
        "scale": scale,
        "lines": lines,
        "labels": labels,
        "groups": groups,
        "height": height,
        "small": len(history.boards) > _FEW,
        "top": top,
        "bottom": bottom,
        "spans": _spans,
        "marks": _marks,
    }
    filters: dict[str, Callable[..., object]] = {
        "px": lambda pixels: f"{pixels:.1f}",
        "time": lambda at: f"{utc(at):%Y-%m-%d %H:%M:%S} UTC",
        "round_duration": format_round_duration,
        "shorter": shorter,
    }
    return page("timeline.svg.jinja", values, "bpudeploy.fleet", filters)


def _line_labels(lines: list[Milestone], scale: Scale) -> Iterator[tuple[Milestone, int, bool]]:
    """Yield each line that is labelled, the lane of its label, and whether the label is left of it.

    A label that does not fit is left out: the table below the figure names its line.
    """
    ends = [float("-inf")] * _LANES
    for milestone in lines:
        x, width = scale.x(milestone.at), 5.0 * len(milestone.label) + 10
        left = x + width > _WIDTH
        begin = x - width if left else x
        lane = next((i for i, end in enumerate(ends) if begin >= end), None)
        if lane is not None:
            ends[lane] = begin + width
            yield milestone, lane, left


def _groups(history: RolloutHistory, y: float, height: float) -> tuple[list[dict[str, object]], float]:
    """Return the heading and rows of each wave, and where they end; a wave that has not begun has no rows."""
    waves = [(f"wave {wave + 1}", history.began(wave), boards) for wave, boards in history.waves.items()]
    skipped = [("in no wave", None, history.skipped)] if history.skipped else []
    groups: list[dict[str, object]] = []
    for name, began, boards in waves + skipped:
        shown = [] if began is None else boards
        rows = [(b, y + 19 + height * i, list(_idle(b, began, history.last))) for i, b in enumerate(shown)]
        counts = count_states([b.board for b in boards], history.view.result is not None)
        groups.append({"name": name, "y": y, "counts": counts, "rows": rows})
        y += 24 + height * len(rows)
    return groups, y


def _idle(board: BoardHistory, began: float | None, last: float) -> Iterator[_Span]:
    """Yield the times between attempts: waiting, or serving the new release. ``began``: when its wave began."""
    since, serving = began, False
    for attempt in board.attempts:
        if since is not None and attempt.began > since:
            yield "new" if serving else "wait", since, attempt.began
        since = attempt.ended
        serving = attempt.status is TaskStatus.DONE and attempt.work is TaskKind.UPDATE
    waits = board.board.state is BoardState.WAITING and not board.finished
    if since is not None and (serving or waits) and last > since:
        yield "new" if serving else "wait", since, last


def _spans(attempt: Attempt, now: float) -> Iterator[_Span]:
    """Yield the activities of an attempt."""
    end = attempt.end(now)
    if attempt.lost or attempt.status is TaskStatus.ABANDONED:
        yield "lost", attempt.began, end
        return
    if attempt.work is TaskKind.ROLLBACK:
        yield "back", attempt.began, end
        return
    since, doing = attempt.began, "connect"
    for at, step in attempt.steps:
        doing = _ACTIVITY_BEFORE.get(step.step, doing)
        yield doing, since, at
        since = at
        if step.step in _ACTIVITY_BEFORE:
            doing = _NEXT_ACTIVITY[doing]
    if end > since or not attempt.steps:
        yield doing, since, end


def _marks(board: BoardHistory) -> Iterator[tuple[str, float]]:
    """Yield the marks of a row: how attempts ended, if not well, and when they were late."""
    for attempt in board.attempts:
        if attempt.status in _MARKED and attempt.ended is not None:
            yield attempt.status, attempt.ended
    for attempt in board.attempts:
        if attempt.late is not None:
            yield "late", attempt.late
