"""The HTML report of a rollout: one self-contained file with its timeline, readable offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bpudeploy.fleet.events import Event, RolloutPlanned, RolloutResult
from bpudeploy.fleet.history import (
    BoardHistory,
    RolloutHistory,
    count_states,
    format_round_duration,
    release_label,
    rollout_history,
    utc,
)
from bpudeploy.fleet.timeline import timeline
from bpudeploy.results.drawing import format_duration, page, plural
from bpudeploy.spec.fleet import GatesSpec, OnFailure, Reserved, Share, Wave


def write_rollout(events: Sequence[Event], path: Path) -> None:
    """Write the report of a rollout, finished or not, to ``path``; the same events give the same bytes.

    Raises:
        ValueError: the first event is not ``RolloutPlanned``.
        OSError: the file cannot be written.
    """
    history = rollout_history(events)
    view = history.view
    tones = {board.label: board.tone for board in history.boards}
    counts = count_states(view.boards.values(), view.result is not None)
    values = {
        "history": history,
        "result": history.result,
        "why": view.why,
        "tone": "" if view.result is None else "good" if view.result is RolloutResult.COMPLETE else "bad",
        "policy": policy_in_words(history.planned),
        "states": [(label, count, tones[label]) for label, count in counts.items()],
        "releases": _releases(history),
        "timeline": timeline(history),
        "tables": _tables(history),
    }
    text = page("rollout.html.jinja", values, "bpudeploy.fleet", _FILTERS)
    path.write_text(text, encoding="utf-8", errors="replace")


def _releases(history: RolloutHistory) -> list[tuple[str, str, int]]:
    """Return target, release and number of boards of everything planned."""
    plans = [p for p in history.planned.places if p.skipped is None]
    counts = Counter((p.target, p.release) for p in plans if p.release is not None)
    return [(target, release, count) for (target, release), count in sorted(counts.items())]


def _tables(history: RolloutHistory) -> list[tuple[str, str, list[BoardHistory]]]:
    """Return title, subtitle and boards of each table."""
    tables = []
    for wave, boards in history.waves.items():
        began, ended = history.began(wave), history.wave_ends.get(wave)
        subtitle = plural(len(boards), "board")
        if began is None:
            subtitle += ", not begun"
        else:
            until = f"to {utc(ended):%H:%M:%S}" if ended is not None else "on"
            sent = sum(board.board.bytes_sent for board in boards) / 1e6
            duration = format_duration((history.last if ended is None else ended) - began)
            subtitle += f", from {utc(began):%H:%M:%S} {until} UTC, {duration}, {sent:,.2f} MB"
        tables.append((f"Wave {wave + 1}", subtitle, boards))
    if history.skipped:
        tables.append(("In no wave", f"{plural(len(history.skipped), 'board')} skipped", history.skipped))
    return tables


def policy_in_words(planned: RolloutPlanned) -> list[str]:
    """Return the policy of a rollout and its waves as sentences."""
    policy = planned.policy
    sentences = [_wave_in_words(planned, wave, soak) for wave, soak in enumerate(planned.soaks)]
    if policy.waves:
        sentences.append(f"Waves of the policy: {'; '.join(_choice(w) for w in policy.waves)}; the rest.")
    stops = "at the first failure" if policy.max_failures == 0 else f"if more than {policy.max_failures} boards fail"
    then = {
        OnFailure.ROLLBACK_WAVE: "the wave that failed is rolled back",
        OnFailure.ROLLBACK_ALL: "every board that it updated is rolled back",
        OnFailure.STOP: "every board stays as it is",
    }[policy.on_failure]
    sentences.append(f"At most {_share(policy.max_unavailable)} out of service at once. It stops {stops}; then {then}.")
    sentences.append(_gates_in_words(policy.gates))
    attempts = plural(policy.attempts, "attempt")
    limit = format_round_duration(policy.board_seconds)
    sentences.append(f"A board fails after {limit}, and is unreachable after {attempts}.")
    if policy.reserved is Reserved.WAIT:
        until = format_round_duration(policy.reserved_seconds)
        sentences.append(f"It waits for a reserved board, {until} at most.")
    else:
        sentences.append("A reserved board is skipped.")
    if policy.windows:
        sentences.append(f"Boards are updated only in: {'; '.join(policy.windows)}.")
    return sentences


def _gates_in_words(gates: GatesSpec) -> str:
    conditions = ["gives the same answers to the golden images as the host"] if gates.self_check else []
    if gates.max_drop is not None:
        conditions.append(f"loses at most {gates.max_drop:g} points of top-1 against float")
    if gates.max_p99_slower is not None:
        conditions.append(f"has a p99 latency at most {gates.max_p99_slower:g} % above that of its previous release")
    if gates.max_temperature is not None:
        conditions.append(f"stays at {gates.max_temperature:g} °C or below")
    if not conditions:
        return "No gates: a board passes if it is updated."
    return f"A board passes if it {'; '.join(conditions)}."


def _wave_in_words(planned: RolloutPlanned, wave: int, soak: float) -> str:
    boards = sum(p.wave == wave and p.skipped is None for p in planned.places)
    sentence = f"Wave {wave + 1}: {plural(boards, 'board')}"
    if wave in planned.approvals:
        sentence += ", after an approval"
    return f"{sentence}; then {format_round_duration(soak)} of soak." if soak else f"{sentence}."


def _choice(wave: Wave) -> str:
    if wave.select is not None:
        return wave.select
    return plural(wave.count, "board") if wave.count is not None else f"{wave.percent:g} % of the boards"


def _share(share: Share) -> str:
    return f"{share} of the boards" if isinstance(share, str) else plural(share, "board")


_FILTERS: Mapping[str, Callable[..., object]] = {
    "clock": lambda at: f"{utc(at):%Y-%m-%d %H:%M:%S}",
    "release": lambda digest: "" if digest is None else release_label(digest),
}
