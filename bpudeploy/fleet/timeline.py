"""The timeline of a rollout as a self-contained SVG: one row per board, grouped by wave."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bpudeploy.fleet.events import TaskKind, TaskStatus
from bpudeploy.fleet.history import (
    Attempt,
    BoardHistory,
    Milestone,
    RolloutHistory,
    count_states,
    format_duration,
    format_round_duration,
    utc,
)
from bpudeploy.fleet.scale import Scale
from bpudeploy.fleet.view import BoardState
from bpudeploy.results.drawing import shorter

_WIDTH, _LABEL, _RIGHT = 1080, 132, 146
_LANE, _LANES, _AXIS, _LEGEND = 13, 6, 18, 44
_FEW = 40
_ACTIVITY_BEFORE = {"connected": "connect", "pushed": "push", "activated": "check", "checked": "check"}
"""The activity that ends with a step; other steps do not change the activity."""
_NEXT_ACTIVITY = {"connect": "push", "push": "check", "check": "check"}
_STYLE = """\
.rtl text { font: 10px system-ui, sans-serif; fill: #1f2937; }
.rtl .s text, .rtl text.s { font-size: 9px; }
.rtl .q { fill: #6b7280; } .rtl .w { font-weight: 600; font-size: 11px; }
.rtl .t { font-size: 9px; fill: #6b7280; text-anchor: middle; font-variant-numeric: tabular-nums; }
.rtl .connect { fill: #93c5fd; } .rtl .push { fill: #2563eb; } .rtl .check { fill: #7c3aed; }
.rtl .back { fill: #d97706; }
.rtl .wait { stroke: #9ca3af; stroke-width: 1.5; stroke-dasharray: 1.5 2; }
.rtl .new { stroke: #86efac; stroke-width: 3; }
.rtl .lost { fill: none; stroke: #1f2937; stroke-dasharray: 2 1.5; }
.rtl .x { stroke: #b91c1c; stroke-width: 2.2; fill: none; stroke-linecap: round; }
.rtl .u { stroke: #111827; stroke-width: 1.6; fill: #fff; }
.rtl .r { stroke: #0e7490; stroke-width: 1.4; fill: #cffafe; }
.rtl .grid { stroke: #eef0f3; } .rtl .sep { stroke: #d1d5db; }
.rtl .m { stroke-width: 1; } .rtl .wave { stroke: #6b7280; } .rtl .order { stroke: #be185d; }
.rtl .end { stroke: #111827; }
.rtl .controller { stroke: #0e7490; stroke-dasharray: 4 2; }
.rtl text.wave, .rtl text.end, .rtl text.order, .rtl text.controller, .rtl .w, .rtl .h { paint-order: stroke;
  stroke: #fff; stroke-width: 3; stroke-dasharray: none; stroke-linejoin: round; }
.rtl text.order { fill: #be185d; } .rtl text.controller { fill: #0e7490; } .rtl .h { fill: #6b7280; }
.rtl .pause { fill: #be185d; fill-opacity: .07; } .rtl .cut { fill: #f3f4f6; }
.rtl .bad { fill: #b91c1c; font-weight: 600; } .rtl .good { fill: #15803d; } .rtl .odd { fill: #b45309; }
"""


def timeline(history: RolloutHistory) -> str:
    """Return the SVG. Long idle times are shortened to a gap that is labelled with its duration."""
    scale = _scale(history)
    height = 17 if len(history.boards) <= _FEW else 13
    head, lanes = _line_labels(history, scale)
    top = _LEGEND + lanes * _LANE + _AXIS
    body, y = list[str](), top + 4.0
    for wave, boards in history.waves.items():
        began = history.began(wave)
        body.append(_heading(f"wave {wave + 1}", boards, y))
        y += 19
        for board in boards if began is not None else []:
            body += _row(board, y, height, scale, history, began)
            y += height
        y += 5
    if history.skipped:
        body.append(_heading("in no wave", history.skipped, y))
        y += 24
    bottom = y
    small = ' class="s"' if len(history.boards) > _FEW else ""
    return "\n".join(
        [
            f'<svg class="rtl" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _AXIS + 4}" '
            f'role="img" aria-label="timeline of {len(history.boards)} boards in {len(history.waves)} waves">',
            f"<style>{_STYLE}</style>",
            *_legend(),
            *_background(history, scale, top, bottom),
            *_lines(history, scale, bottom),
            *head,
            f"<g{small}>",
            *body,
            "</g>",
            "</svg>",
        ]
    )


def _scale(history: RolloutHistory) -> Scale:
    busy = [(a.began, a.end(history.last)) for board in history.boards for a in board.attempts]
    return Scale.of(busy, history.planned.at, history.last, _LABEL, _WIDTH - _RIGHT)


def _legend() -> list[str]:
    bars = [
        ("connect", "connecting"),
        ("push", "sending"),
        ("check", "activating and checking"),
        ("back", "rolling back"),
    ]
    made, x = [], 0.0
    for name, text in bars:
        made.append(f'<rect class="{name}" x="{x:g}" y="3" width="20" height="9" rx="2"/>')
        x = _legend_text(made, x + 24, text)
    made.append(f'<line class="wait" x1="{x:g}" x2="{x + 20:g}" y1="7.5" y2="7.5"/>')
    x = _legend_text(made, x + 24, "waiting")
    made.append(f'<line class="new" x1="{x:g}" x2="{x + 20:g}" y1="7.5" y2="7.5"/>')
    x = _legend_text(made, x + 24, "serves the new release")
    x = 0.0
    for name, text in (("x", "failed"), ("l", "late"), ("u", "unreachable"), ("r", "reserved")):
        made.append(_mark(name, x + 6, 23.5, 4))
        x = _legend_text(made, x + 16, text, 27)
    made.append(f'<rect class="lost" x="{x:g}" y="19" width="20" height="9" rx="2"/>')
    x = _legend_text(made, x + 24, "abandoned, or lost with its controller", 27)
    made.append(f'<rect class="cut" x="{x:g}" y="17" width="20" height="12"/>')
    x = _legend_text(made, x + 24, "idle time, shortened", 27)
    made.append(f'<rect class="pause" x="{x:g}" y="17" width="20" height="12"/>')
    _legend_text(made, x + 24, "paused. Hover a bar for more.", 27)
    return made


def _legend_text(made: list[str], x: float, text: str, y: float = 11) -> float:
    made.append(f'<text class="q" x="{x:g}" y="{y:g}">{escape(text)}</text>')
    return x + 18 + 5.3 * len(text)


def _background(history: RolloutHistory, scale: Scale, top: float, bottom: float) -> list[str]:
    """Return the background of the rows: gaps, pauses, the axis above and below."""
    made = []
    for gap in scale.gaps:
        width = gap.x1 - gap.x0
        made.append(f'<rect class="cut" x="{gap.x0:.1f}" y="{top}" width="{width:.1f}" height="{bottom - top:.1f}"/>')
        for y in (top - 5, bottom + 12):
            label = escape(format_round_duration(gap.end - gap.begin))
            made.append(f'<text class="t" font-style="italic" x="{(gap.x0 + gap.x1) / 2:.1f}" y="{y:g}">{label}</text>')
    for begin, end in history.pauses:
        a, b = scale.x(begin), scale.x(end)
        made.append(f'<rect class="pause" x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="{bottom - top:.1f}"/>')
    for at, label in scale.ticks():
        x = scale.x(at)
        made.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom:g}"/>')
        made += [f'<text class="t" x="{x:.1f}" y="{y:g}">{label}</text>' for y in (top - 5, bottom + 12)]
    return made


def _line_labels(history: RolloutHistory, scale: Scale) -> tuple[list[str], int]:
    """Return the labels of the vertical lines, and how many lanes they need."""
    ends = [float("-inf")] * _LANES
    made, used = [], 0
    for milestone in _drawn(history):
        x, width = scale.x(milestone.at), 5.0 * len(milestone.label) + 10
        left = x + width > _WIDTH
        begin = x - width if left else x
        lane = next((i for i, end in enumerate(ends) if begin >= end), None)
        if lane is None:
            continue  # the table below the figure names its line
        ends[lane] = begin + width
        used = max(used, lane + 1)
        anchor = ' text-anchor="end"' if left else ""
        y = _LEGEND + lane * _LANE + 6
        made.append(
            f'<text class="{milestone.kind} s" x="{x - 3 if left else x + 3:.1f}" y="{y:g}"{anchor}>'
            f"<title>{escape(_timestamp(milestone.at))} {escape(milestone.by)}</title>{escape(milestone.label)}</text>"
        )
    return made, used


def _drawn(history: RolloutHistory) -> list[Milestone]:
    """Return the milestones that get a line: all but the first controller's, with which the figure begins."""
    first = next((m for m in history.milestones if m.kind == "controller"), None)
    return [m for m in history.milestones if m is not first]


def _lines(history: RolloutHistory, scale: Scale, bottom: float) -> list[str]:
    made = []
    for milestone in _drawn(history):
        x = scale.x(milestone.at)
        made.append(
            f'<line class="m {milestone.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_LEGEND - 4}" y2="{bottom:g}">'
            f"<title>{escape(f'{milestone.label}, {_timestamp(milestone.at)} {milestone.by}')}</title></line>"
        )
    return made


def _heading(name: str, boards: Sequence[BoardHistory], y: float) -> str:
    finished = any(board.finished for board in boards)
    sums = ", ".join(f"{n} {label}" for label, n in count_states([b.board for b in boards], finished).items())
    return (
        f'<line class="sep" x1="0" x2="{_WIDTH}" y1="{y + 1:g}" y2="{y + 1:g}"/>'
        f'<text class="w" x="0" y="{y + 13:g}">{name}</text>'
        f'<text class="h" x="{9 + 6.4 * len(name):g}" y="{y + 13:g}">{escape(sums)}</text>'
    )


def _row(
    board: BoardHistory, y: float, height: float, scale: Scale, history: RolloutHistory, began: float | None
) -> list[str]:
    """Return the row of a board; ``began`` is the start of its wave."""
    middle, base = y + height / 2, y + height / 2 + 3.2
    plan = board.board.plan
    tooltip = escape(f"{plan.board}, {plan.target}: {board.label}\n{board.detail}")
    made = [f'<text x="0" y="{base:g}"><title>{tooltip}</title>{escape(shorter(plan.board, 22))}</text>']
    made += _idle_lines(board, middle, scale, history, began)
    for attempt in board.attempts:
        made += _bar(attempt, y + 1.5, height - 3, scale, history.last)
    made += [_end_mark(attempt, middle, height, scale) for attempt in board.attempts]
    made += [_mark("l", scale.x(a.late), middle, height / 2 - 1) for a in board.attempts if a.late is not None]
    duration = f" · {format_duration(board.seconds(history.last))}" if board.attempts else ""
    made.append(
        f'<text class="{board.tone or "q"}" x="{_WIDTH - _RIGHT + 8}" y="{base:g}">'
        f"<title>{tooltip}</title>{escape(board.label + duration)}</text>"
    )
    return made


def _idle_lines(board: BoardHistory, y: float, scale: Scale, history: RolloutHistory, began: float | None) -> list[str]:
    """Return thin lines for the times between attempts: waiting, or serving the new release."""
    made = []
    since, serving = began, False
    for attempt in board.attempts:
        if since is not None and attempt.began > since:
            made.append(_thin_line("new" if serving else "wait", since, attempt.began, y, scale))
        since = attempt.ended
        done = attempt.result is not None and attempt.result.ending is TaskStatus.DONE
        serving = done and attempt.work is TaskKind.UPDATE
    waits = board.board.state is BoardState.WAITING and not board.finished
    if since is not None and (serving or waits) and history.last > since:
        made.append(_thin_line("new" if serving else "wait", since, history.last, y, scale))
    return made


def _thin_line(name: str, begin: float, end: float, y: float, scale: Scale) -> str:
    return f'<line class="{name}" x1="{scale.x(begin):.1f}" x2="{scale.x(end):.1f}" y1="{y:g}" y2="{y:g}"/>'


def _bar(attempt: Attempt, y: float, height: float, scale: Scale, now: float) -> list[str]:
    end, tooltip = attempt.end(now), _tooltip(attempt, now)
    if attempt.lost or (attempt.result is not None and attempt.result.ending is TaskStatus.ABANDONED):
        return [_rect("lost", attempt.began, end, y, height, scale, tooltip)]
    if attempt.work is TaskKind.ROLLBACK:
        return [_rect("back", attempt.began, end, y, height, scale, tooltip)]
    made, since, doing = [], attempt.began, "connect"
    for at, step in attempt.steps:
        doing = _ACTIVITY_BEFORE.get(step.step, doing)
        made.append(_rect(doing, since, at, y, height, scale, tooltip))
        since = at
        if step.step in _ACTIVITY_BEFORE:
            doing = _NEXT_ACTIVITY[doing]
    if end > since or not made:
        made.append(_rect(doing, since, end, y, height, scale, tooltip))
    return made


def _rect(name: str, begin: float, end: float, y: float, height: float, scale: Scale, tooltip: str) -> str:
    x = scale.x(begin)
    width = max(scale.x(end) - x, 1.2)
    shape = f'class="{name}" x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="1"'
    return f"<rect {shape}><title>{escape(tooltip)}</title></rect>"


def _tooltip(attempt: Attempt, now: float) -> str:
    began, result = attempt.began, attempt.result
    status = "lost with its controller" if attempt.lost else "running" if result is None else result.ending.value
    lines = [
        f"{attempt.work}, attempt {attempt.number}: {status}",
        f"{_timestamp(began)}, {format_duration(attempt.end(now) - began)}",
    ]
    lines += [f"{step.step} after {format_duration(at - began)} {step.detail}".rstrip() for at, step in attempt.steps]
    if result is not None and result.detail:
        lines.append(result.detail)
    return "\n".join(lines)


def _timestamp(at: float) -> str:
    return utc(at).strftime("%Y-%m-%d %H:%M:%S UTC")


_MARKS = {TaskStatus.FAILED: "x", TaskStatus.UNREACHABLE: "u", TaskStatus.RESERVED: "r"}


def _end_mark(attempt: Attempt, y: float, height: float, scale: Scale) -> str:
    if attempt.result is None or attempt.ended is None or attempt.result.ending not in _MARKS:
        return ""
    return _mark(_MARKS[attempt.result.ending], scale.x(attempt.ended), y, min(height / 2 - 2.2, 4.5))


def _mark(name: str, x: float, y: float, r: float) -> str:
    """Return a cross, a crossed-out circle, a square or a bar: distinguishable without colours."""
    if name == "l":
        return f'<path class="x" d="M{x:.1f} {y - r:.1f}V{y + r:.1f}"/>'
    if name == "x":
        path = f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}"
        return f'<path class="x" d="{path}"/>'
    if name == "u":
        d = r * 0.7
        slash = f'<path class="u" d="M{x - d:.1f} {y + d:.1f}L{x + d:.1f} {y - d:.1f}"/>'
        return f'<circle class="u" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>{slash}'
    return f'<rect class="r" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>'
