"""The lines by which a rollout is shown on a terminal: one a board, one bar a wave, one on the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bpudeploy.digest import short

if TYPE_CHECKING:
    from bpudeploy.fleet.view import BoardView, RolloutView

_BAR = 30
Line = tuple[str, str]
"""A line of text, and its tone: good, bad, odd, or none."""


def printable(text: str) -> str:
    """Return a text in one line, with nothing in it that a terminal would obey: a board's words are not ours."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def release_in_words(digest: str | None) -> str:
    return "not known" if digest is None else short(digest) or "nothing"


def megabytes(count: int | None) -> str:
    return "not known" if count is None else f"{count / 1e6:,.2f} MB"


def board_line(board: BoardView, known: RolloutView, now: float) -> Line:
    """Return a board's line; ``now`` is the time of this machine, for work that goes on."""
    from bpudeploy.fleet.chronicle import lasting, standing, tone
    from bpudeploy.fleet.view import IN_WORK

    working = board.state in IN_WORK
    wide = min(32, max(len(name) for name in known.boards))
    name = printable(board.place.board)
    step = printable(board.step) if working else ""
    took = lasting(max(0.0, now - board.since)) if working else ""
    words = standing(board, known.result is not None)
    detail = printable(board.detail)
    return f"  {name:<{wide}}  {words:<19} {step:<12} {took:>10}  {detail}".rstrip(), tone(board)


def wave_lines(known: RolloutView) -> list[Line]:
    """Return a bar for each wave: # done, x failed, ? unreachable, - gone back or reserved, + at work."""
    found = []
    for wave in range(known.waves):
        boards = known.of_wave(wave)
        counts = _tally(boards)
        ended = "" if wave >= known.wave else ", ended"
        over = known.result is not None
        named = {words: "not finished" if over and words == "waiting" else words for words in counts}
        said = ", ".join(f"{count} {named[words]}" for words, count in counts.items() if count and words != "done")
        text = f"wave {wave + 1:<3} [{_bar(counts)}] {counts['done']:>3} of {len(boards)} done"
        found.append((text + (f", {said}" if said else "") + ended, "bad" if counts["failed"] else ""))
    return found


def _tally(boards: Iterable[BoardView]) -> dict[str, int]:
    from bpudeploy.fleet.view import IN_WORK, State

    counts = dict.fromkeys(("done", "failed", "unreachable", "at work", "gone back", "reserved", "waiting"), 0)
    names = {
        State.DONE: "done",
        State.UNREACHABLE: "unreachable",
        State.ROLLED_BACK: "gone back",
        State.RESERVED: "reserved",
        State.WAITING: "waiting",
    }
    for board in boards:
        failed = board.failed or board.state is State.FAILED
        counts["failed" if failed else "at work" if board.state in IN_WORK else names[board.state]] += 1
    return counts


def _bar(counts: dict[str, int]) -> str:
    """Return a bar in which nothing that there is gets lost."""
    parts = [
        ("#", counts["done"]),
        ("x", counts["failed"]),
        ("?", counts["unreachable"]),
        ("-", counts["gone back"] + counts["reserved"]),
        ("+", counts["at work"]),
        (".", counts["waiting"]),
    ]
    total = max(1, sum(count for _, count in parts))
    sizes = [max(1, count * _BAR // total) if count else 0 for _, count in parts]
    sizes[sizes.index(max(sizes))] += _BAR - sum(sizes)
    return "".join(char * size for (char, _), size in zip(parts, sizes, strict=True)).ljust(_BAR)


def whole_lines(known: RolloutView, now: float) -> list[Line]:
    """Return the line on the whole."""
    from bpudeploy.fleet.chronicle import lasting
    from bpudeploy.fleet.view import Phase

    planned = known.planned
    whole = f"{printable(planned.rollout)}, {printable(planned.name)}"
    sent = megabytes(sum(board.bytes_sent for board in known.boards.values()))
    if known.result is not None:
        took = lasting(known.last_at - planned.at)
        tone = "good" if known.result.value == "complete" else "bad"
        return [(f"{whole}: {known.result} after {took}, {sent} sent: {printable(known.why)}", tone)]
    phase = known.phase(now)
    odd = "odd" if phase in (Phase.PAUSED, Phase.APPROVAL, Phase.STOPPING) else ""
    until = f", {lasting(known.soak_until - now)} left" if phase is Phase.SOAKING and known.soak_until else ""
    return [(f"{whole}: {phase}{until}, {lasting(max(0.0, now - planned.at))}, {sent} sent", odd)]


def frame(known: RolloutView, now: float, height: int) -> list[Line]:
    """Return what fits ``height`` lines: the whole, a bar a wave, and of the boards those to look at first.

    At work first, then failed, unreachable and reserved; then, while there is room, those that were done last, and
    those whose turn comes next. What has no room is counted.
    """
    waves = wave_lines(known)
    most = max(1, height // 3)
    if len(waves) > most:
        first = min(known.wave, len(waves) - most)  # those that are over go first
        waves = waves[first : first + most]
    head = [*whole_lines(known, now), *waves]
    room = max(1, height - len(head))
    boards = sorted(known.boards.values(), key=rank)
    shown = boards if len(boards) <= room else boards[: room - 1]
    lines = [board_line(board, known, now) for board in shown]
    rest = boards[len(shown) :]
    if rest:
        counted = ", ".join(f"{count} {words}" for words, count in _rest(rest, known).items())
        lines.append((f"  and {len(rest)} more: {counted}", ""))
    return [*head, *lines]


def _rest(boards: Sequence[BoardView], known: RolloutView) -> dict[str, int]:
    from bpudeploy.fleet.chronicle import standing

    found: dict[str, int] = {}
    for board in boards:
        words = standing(board, known.result is not None)
        found[words] = found.get(words, 0) + 1
    return found


def rank(board: BoardView) -> tuple[int, float]:
    from bpudeploy.fleet.view import IN_WORK, State

    if board.state in IN_WORK:
        return 0, board.since
    if board.failed or board.state is State.FAILED:
        return 1, board.since
    order = (State.UNREACHABLE, State.RESERVED)
    if board.state in order:
        return 2 + order.index(board.state), board.since
    if board.state is State.WAITING:
        return (4, board.since) if board.attempts else (6, 0.0)
    return (7, 0.0) if board.state is State.SKIPPED else (5, -board.since)
