"""The lines that show a rollout on a terminal: one per board, one bar per wave, one for the whole rollout."""

from __future__ import annotations

from collections.abc import Iterable

from bpudeploy.fleet.history import count_states, state_label, tone
from bpudeploy.fleet.view import IN_PROGRESS, BoardState, BoardView, Phase, RolloutView
from bpudeploy.results.drawing import format_duration

_BAR = 30
_CHARACTERS = {
    "done": "#",
    "failed": "x",
    "unreachable": "?",
    "in progress": "+",
    "rolled back": "-",
    "reserved": "-",
    "waiting": ".",
}
"""What is counted in a wave, and its character in the bar."""
Line = tuple[str, str]
"""A line of text, and its tone: good, bad, odd or empty."""


def printable(text: str) -> str:
    """Return a text as one line without control characters: a board's output must not control the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.2f} MB"


def board_line(board: BoardView, view: RolloutView, now: float) -> Line:
    """Return the line of a board; ``now`` is this machine's time, for tasks in progress."""
    running = board.state in IN_PROGRESS
    width = min(32, max(len(name) for name in view.boards))
    name = printable(board.plan.board)
    step = printable(board.step) if running else ""
    duration = format_duration(max(0.0, now - board.since)) if running else ""
    label = state_label(board, view.result is not None)
    detail = printable(board.detail)
    return f"  {name:<{width}}  {label:<19} {step:<12} {duration:>10}  {detail}".rstrip(), tone(board)


def wave_lines(view: RolloutView) -> list[Line]:
    """Return a bar for each wave: # done, x failed, ? unreachable, - rolled back or reserved, + in progress."""
    lines = []
    for wave in range(view.waves):
        boards = view.boards_of_wave(wave)
        counts = _tally(boards)
        ended = "" if wave >= view.wave else ", ended"
        labels = {"waiting": "not finished"} if view.result is not None else {}
        others = [f", {n} {labels.get(label, label)}" for label, n in counts.items() if n and label != "done"]
        text = f"wave {wave + 1:<3} [{_bar(counts)}] {counts['done']:>3} of {len(boards)} done{''.join(others)}{ended}"
        lines.append((text, "bad" if counts["failed"] else ""))
    return lines


def _tally(boards: Iterable[BoardView]) -> dict[str, int]:
    counts = dict.fromkeys(_CHARACTERS, 0)
    for board in boards:
        failed = board.failed or board.state is BoardState.FAILED
        counts["failed" if failed else "in progress" if board.state in IN_PROGRESS else board.state.value] += 1
    return counts


def _bar(counts: dict[str, int]) -> str:
    """Return a bar in which every label that has boards is visible."""
    boards = dict.fromkeys("#x?-+.", 0)
    for label, count in counts.items():
        boards[_CHARACTERS[label]] += count
    total = max(1, sum(boards.values()))
    sizes = {character: max(1, count * _BAR // total) if count else 0 for character, count in boards.items()}
    sizes[max(sizes, key=lambda character: sizes[character])] += _BAR - sum(sizes.values())
    return "".join(character * size for character, size in sizes.items()).ljust(_BAR)


def rollout_line(view: RolloutView, now: float) -> Line:
    """Return the line of the whole rollout."""
    planned = view.planned
    name = f"{printable(planned.rollout)}, {printable(planned.name)}"
    sent = megabytes(sum(board.bytes_sent for board in view.boards.values()))
    if view.result is not None:
        duration = format_duration(view.last_at - planned.at)
        result_tone = "good" if view.result.value == "complete" else "bad"
        return f"{name}: {view.result} after {duration}, {sent} sent: {printable(view.why)}", result_tone
    phase = view.phase(now)
    odd = "odd" if phase in (Phase.PAUSED, Phase.APPROVAL, Phase.STOPPING) else ""
    until = f", {format_duration(view.soak_until - now)} left" if phase is Phase.SOAKING and view.soak_until else ""
    return f"{name}: {phase}{until}, {format_duration(max(0.0, now - planned.at))}, {sent} sent", odd


def frame(view: RolloutView, now: float, height: int) -> list[Line]:
    """Return ``height`` lines at most: the rollout, a bar per wave, and the boards that need attention first.

    Boards in progress come first, then failed, unreachable and reserved ones, those done most recently, and those that
    come next. The others are only counted.
    """
    waves = wave_lines(view)
    most = max(1, height // 3)
    if len(waves) > most:
        first = min(view.wave, len(waves) - most)  # finished waves are dropped first
        waves = waves[first : first + most]
    head = [rollout_line(view, now), *waves]
    room = max(1, height - len(head))
    boards = sorted(view.boards.values(), key=rank)
    shown = boards if len(boards) <= room else boards[: room - 1]
    lines = [board_line(board, view, now) for board in shown]
    rest = boards[len(shown) :]
    if rest:
        counts = ", ".join(f"{n} {label}" for label, n in count_states(rest, view.result is not None).items())
        lines.append((f"  and {len(rest)} more: {counts}", ""))
    return [*head, *lines]


def rank(board: BoardView) -> tuple[int, float]:
    """Return the sort key of ``frame``."""
    if board.state in IN_PROGRESS:
        return 0, board.since
    if board.failed or board.state is BoardState.FAILED:
        return 1, board.since
    order = (BoardState.UNREACHABLE, BoardState.RESERVED)
    if board.state in order:
        return 2 + order.index(board.state), board.since
    if board.state is BoardState.WAITING:
        return (4, board.since) if board.attempts else (6, 0.0)
    return (7, 0.0) if board.state is BoardState.SKIPPED else (5, -board.since)
