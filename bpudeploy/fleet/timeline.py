"""The timeline of a rollout as one self-contained SVG: a row a board, grouped by wave."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bpudeploy.fleet.chronicle import Chronicle, Moment, Spell, Told, lasting, roughly, standings, utc
from bpudeploy.fleet.events import Ending, Work
from bpudeploy.fleet.scale import Scale
from bpudeploy.fleet.view import State

_WIDTH, _LABEL, _RIGHT = 1080, 132, 146
_LANE, _LANES, _AXIS, _LEGEND = 13, 6, 18, 44
_FEW = 40
_UNTIL = {"connected": "connect", "pushed": "push", "activated": "check", "checked": "check"}
"""What a board was at, until it reached a step; at one that is not here it goes on with what it was at."""
_AFTER = {"connect": "push", "push": "check", "check": "check"}
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


def timeline(told: Chronicle) -> str:
    """Return the SVG. Long times in which no board was at work are cut short, and say how long they were."""
    scale = _scale(told)
    high = 17 if len(told.boards) <= _FEW else 13
    head, lanes = _flags(told, scale)
    top = _LEGEND + lanes * _LANE + _AXIS
    body, y = list[str](), top + 4.0
    for wave, boards in told.waves.items():
        began = told.began(wave)
        body.append(_heading(f"wave {wave + 1}", boards, y))
        y += 19
        for board in boards if began is not None else []:
            body += _row(board, y, high, scale, told, began)
            y += high
        y += 5
    if told.skipped:
        body.append(_heading("in no wave", told.skipped, y))
        y += 24
    bottom = y
    small = ' class="s"' if len(told.boards) > _FEW else ""
    return "\n".join(
        [
            f'<svg class="rtl" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _AXIS + 4}" '
            f'role="img" aria-label="timeline of {len(told.boards)} boards in {len(told.waves)} waves">',
            f"<style>{_STYLE}</style>",
            *_legend(),
            *_ground(told, scale, top, bottom),
            *_lines(told, scale, bottom),
            *head,
            f"<g{small}>",
            *body,
            "</g>",
            "</svg>",
        ]
    )


def _scale(told: Chronicle) -> Scale:
    end = told.last
    busy = [(s.began, end if s.ended is None else s.ended) for b in told.boards for s in b.spells]
    return Scale.of(busy, told.planned.at, end, _LABEL, _WIDTH - _RIGHT)


def _legend() -> list[str]:
    bars = [
        ("connect", "connecting"),
        ("push", "sending"),
        ("check", "activating and checking"),
        ("back", "going back"),
    ]
    made, x = [], 0.0
    for name, text in bars:
        made.append(f'<rect class="{name}" x="{x:g}" y="3" width="20" height="9" rx="2"/>')
        x = _said(made, x + 24, text)
    made.append(f'<line class="wait" x1="{x:g}" x2="{x + 20:g}" y1="7.5" y2="7.5"/>')
    x = _said(made, x + 24, "its turn has not come")
    made.append(f'<line class="new" x1="{x:g}" x2="{x + 20:g}" y1="7.5" y2="7.5"/>')
    x = _said(made, x + 24, "serves its new release")
    x = 0.0
    for name, text in (("x", "failed"), ("l", "late"), ("u", "unreachable"), ("r", "reserved")):
        made.append(_mark(name, x + 6, 23.5, 4))
        x = _said(made, x + 16, text, 27)
    made.append(f'<rect class="lost" x="{x:g}" y="19" width="20" height="9" rx="2"/>')
    x = _said(made, x + 24, "given up, or lost with its controller", 27)
    made.append(f'<rect class="cut" x="{x:g}" y="17" width="20" height="12"/>')
    x = _said(made, x + 24, "a long quiet time, cut short", 27)
    made.append(f'<rect class="pause" x="{x:g}" y="17" width="20" height="12"/>')
    _said(made, x + 24, "paused. Hover a bar for more.", 27)
    return made


def _said(made: list[str], x: float, text: str, y: float = 11) -> float:
    made.append(f'<text class="q" x="{x:g}" y="{y:g}">{escape(text)}</text>')
    return x + 18 + 5.3 * len(text)


def _ground(told: Chronicle, scale: Scale, top: float, bottom: float) -> list[str]:
    """Return what lies behind the rows: cuts, pauses, the axis above and below."""
    made = []
    for cut in scale.cuts:
        wide = cut.x1 - cut.x0
        made.append(f'<rect class="cut" x="{cut.x0:.1f}" y="{top}" width="{wide:.1f}" height="{bottom - top:.1f}"/>')
        for y in (top - 5, bottom + 12):
            words = escape(roughly(cut.end - cut.begin))
            made.append(f'<text class="t" font-style="italic" x="{(cut.x0 + cut.x1) / 2:.1f}" y="{y:g}">{words}</text>')
    for begin, end in told.pauses:
        a, b = scale.x(begin), scale.x(end)
        made.append(f'<rect class="pause" x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="{bottom - top:.1f}"/>')
    for at, words in scale.ticks():
        x = scale.x(at)
        made.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom:g}"/>')
        made += [f'<text class="t" x="{x:.1f}" y="{y:g}">{words}</text>' for y in (top - 5, bottom + 12)]
    return made


def _flags(told: Chronicle, scale: Scale) -> tuple[list[str], int]:
    """Return the names of the vertical lines, in as many lanes as they need, and how many these are."""
    ends = [float("-inf")] * _LANES
    made, used = [], 0
    for moment in _drawn(told):
        x, wide = scale.x(moment.at), 5.0 * len(moment.words) + 10
        left = x + wide > _WIDTH
        begin = x - wide if left else x
        lane = next((i for i, end in enumerate(ends) if begin >= end), None)
        if lane is None:
            continue  # its line is there, and the table below the figure names it
        ends[lane] = begin + wide
        used = max(used, lane + 1)
        anchor = ' text-anchor="end"' if left else ""
        y = _LEGEND + lane * _LANE + 6
        made.append(
            f'<text class="{moment.kind} s" x="{x - 3 if left else x + 3:.1f}" y="{y:g}"{anchor}>'
            f"<title>{escape(_told_at(moment.at))} {escape(moment.by)}</title>{escape(moment.words)}</text>"
        )
    return made, used


def _drawn(told: Chronicle) -> list[Moment]:
    """Return what is drawn: the figure begins with the first controller, which needs no line."""
    first = next((m for m in told.moments if m.kind == "controller"), None)
    return [m for m in told.moments if m is not first]


def _lines(told: Chronicle, scale: Scale, bottom: float) -> list[str]:
    made = []
    for moment in _drawn(told):
        x = scale.x(moment.at)
        made.append(
            f'<line class="m {moment.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_LEGEND - 4}" y2="{bottom:g}">'
            f"<title>{escape(f'{moment.words}, {_told_at(moment.at)} {moment.by}')}</title></line>"
        )
    return made


def _heading(name: str, boards: Sequence[Told], y: float) -> str:
    sums = ", ".join(f"{count} {words}" for words, count in standings(boards).items())
    return (
        f'<line class="sep" x1="0" x2="{_WIDTH}" y1="{y + 1:g}" y2="{y + 1:g}"/>'
        f'<text class="w" x="0" y="{y + 13:g}">{name}</text>'
        f'<text class="h" x="{9 + 6.4 * len(name):g}" y="{y + 13:g}">{escape(sums)}</text>'
    )


def _row(one: Told, y: float, high: float, scale: Scale, told: Chronicle, began: float | None) -> list[str]:
    """Return a board's row; ``began`` is when its wave did."""
    middle, base = y + high / 2, y + high / 2 + 3.2
    place = one.board.place
    whole = escape(f"{place.board}, {place.target}: {one.words}\n{one.detail}")
    made = [f'<text x="0" y="{base:g}"><title>{whole}</title>{escape(shorter(place.board, 22))}</text>']
    made += _quiet(one, middle, scale, told, began)
    for spell in one.spells:
        made += _bar(spell, y + 1.5, high - 3, scale, told.last)
    made += [_ending(spell, middle, high, scale) for spell in one.spells]
    made += [_mark("l", scale.x(s.late), middle, high / 2 - 1) for s in one.spells if s.late is not None]
    took = f" · {lasting(one.seconds(told.last))}" if one.spells else ""
    made.append(
        f'<text class="{one.tone or "q"}" x="{_WIDTH - _RIGHT + 8}" y="{base:g}">'
        f"<title>{whole}</title>{escape(one.words + took)}</text>"
    )
    return made


def _quiet(one: Told, y: float, scale: Scale, told: Chronicle, began: float | None) -> list[str]:
    """Return thin lines for the times in which nothing was done to it: it waited, or served what is new."""
    made = []
    since, serving = began, False
    for spell in one.spells:
        if since is not None and spell.began > since:
            made.append(_thin("new" if serving else "wait", since, spell.began, y, scale))
        since = spell.ended
        serving = spell.how is not None and spell.how.ending is Ending.DONE and spell.work is Work.UPDATE
    waits = one.board.state is State.WAITING and not one.over
    if since is not None and (serving or waits) and told.last > since:
        made.append(_thin("new" if serving else "wait", since, told.last, y, scale))
    return made


def _thin(name: str, begin: float, end: float, y: float, scale: Scale) -> str:
    return f'<line class="{name}" x1="{scale.x(begin):.1f}" x2="{scale.x(end):.1f}" y1="{y:g}" y2="{y:g}"/>'


def _bar(spell: Spell, y: float, high: float, scale: Scale, now: float) -> list[str]:
    end = now if spell.ended is None else spell.ended
    if spell.lost or (spell.how is not None and spell.how.ending is Ending.ABANDONED):
        return [_rect("lost", spell.began, end, y, high, scale, _told(spell, now))]
    if spell.work is Work.ROLLBACK:
        return [_rect("back", spell.began, end, y, high, scale, _told(spell, now))]
    made, since, doing = [], spell.began, "connect"
    for at, step in spell.steps:
        doing = _UNTIL.get(step.step, doing)
        made.append(_rect(doing, since, at, y, high, scale, _told(spell, now)))
        since = at
        if step.step in _UNTIL:
            doing = _AFTER[doing]
    if end > since or not made:
        made.append(_rect(doing, since, end, y, high, scale, _told(spell, now)))
    return made


def _rect(name: str, begin: float, end: float, y: float, high: float, scale: Scale, words: str) -> str:
    x = scale.x(begin)
    wide = max(scale.x(end) - x, 1.2)
    shape = f'class="{name}" x="{x:.1f}" y="{y:g}" width="{wide:.1f}" height="{high:g}" rx="1"'
    return f"<rect {shape}><title>{escape(words)}</title></rect>"


def _told(spell: Spell, now: float) -> str:
    end = now if spell.ended is None else spell.ended
    how = "lost with its controller" if spell.lost else "goes on" if spell.how is None else spell.how.ending.value
    lines = [f"{spell.work}, try {spell.attempt}: {how}", f"{_told_at(spell.began)}, {lasting(end - spell.began)}"]
    lines += [f"{step.step} after {lasting(at - spell.began)} {step.detail}".rstrip() for at, step in spell.steps]
    if spell.how is not None and spell.how.detail:
        lines.append(spell.how.detail)
    return "\n".join(lines)


def _told_at(at: float) -> str:
    return utc(at).strftime("%Y-%m-%d %H:%M:%S UTC")


_MARKS = {Ending.FAILED: "x", Ending.UNREACHABLE: "u", Ending.RESERVED: "r"}


def _ending(spell: Spell, y: float, high: float, scale: Scale) -> str:
    if spell.how is None or spell.ended is None or spell.how.ending not in _MARKS:
        return ""
    return _mark(_MARKS[spell.how.ending], scale.x(spell.ended), y, min(high / 2 - 2.2, 4.5))


def _mark(name: str, x: float, y: float, r: float) -> str:
    """Return a cross, a circle that is struck out, a square or a bar: they differ without their colours."""
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


def shorter(name: str, most: int) -> str:
    """Return ``name`` with its middle left out where it is longer than ``most``."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"
