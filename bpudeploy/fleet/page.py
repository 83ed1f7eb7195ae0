"""The page of a rollout: one file, its timeline inside, readable with no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.digest import short
from bpudeploy.fleet.chronicle import Chronicle, Told, chronicle, lasting, roughly, standings, utc
from bpudeploy.fleet.events import Event, Planned, Result
from bpudeploy.fleet.timeline import timeline
from bpudeploy.fleet.view import IN_WORK
from bpudeploy.results.drawing import page
from bpudeploy.spec.fleet import GatesSpec, OnFailure, Reserved, Share, Wave


@dataclass(frozen=True)
class _Row:
    """A board in the table of its wave."""

    board: str
    target: str
    before: str
    release: str
    serves: str
    """What it serves, where that is not what it was to get."""
    megabytes: str
    took: str
    tries: str
    words: str
    tone: str
    detail: str

    @classmethod
    def of(cls, told: Told, now: float) -> _Row:
        board, place, tried = told.board, told.board.place, bool(told.spells)
        elsewhere = tried and board.state not in IN_WORK and board.serves != place.release
        return cls(
            board=place.board,
            target=place.target,
            before=_release(board.before),
            release=_release(place.release),
            serves=(_release(board.serves) or "not known") if elsewhere else "",
            megabytes=f"{board.bytes_sent / 1e6:,.2f}" if tried else "",
            took=lasting(told.seconds(now)) if tried else "",
            tries=str(told.tries) if tried else "",
            words=told.words,
            tone=told.tone,
            detail=told.detail,
        )


def _release(digest: str | None) -> str:
    """Return a release for a table; empty where it is not known."""
    return "" if digest is None else short(digest) or "nothing"


@dataclass(frozen=True)
class _Table:
    title: str
    words: str
    rows: tuple[_Row, ...]


def write_rollout(events: Sequence[Event], path: Path) -> None:
    """Draw a rollout as one self-contained HTML page at ``path``, finished or not. The same events, the same bytes.

    Raises:
        ValueError: the first event does not say what the rollout is.
        OSError: it cannot be written.
    """
    path.write_text(_page(chronicle(events)), encoding="utf-8", errors="replace")


def _page(told: Chronicle) -> str:
    known = told.view
    tones = {one.words: one.tone for one in told.boards}
    values = {
        "told": told,
        "result": told.result,
        "why": known.why,
        "tone": "" if known.result is None else "good" if known.result is Result.COMPLETE else "bad",
        "policy": policy_in_words(told.planned),
        "standings": [(words, count, tones[words]) for words, count in standings(told.boards).items()],
        "releases": _releases(told),
        "timeline": timeline(told),
        "tables": _tables(told),
    }
    return page("rollout.html.jinja", values, "bpudeploy.fleet", _FILTERS)


def _releases(told: Chronicle) -> list[tuple[str, str, int]]:
    """Return target, release and boards, of what was to be rolled out."""
    places = [p for p in told.planned.places if p.skipped is None]
    counted = Counter((p.target, p.release) for p in places if p.release is not None)
    return [(target, release, count) for (target, release), count in sorted(counted.items())]


def _tables(told: Chronicle) -> list[_Table]:
    found = []
    for wave, boards in told.waves.items():
        began, ended = told.began(wave), told.wave_ends.get(wave)
        words = _boards(len(boards))
        if began is None:
            words += ", not begun"
        else:
            until = f"to {utc(ended):%H:%M:%S}" if ended is not None else "on"
            sent = sum(one.board.bytes_sent for one in boards) / 1e6
            took = lasting((told.last if ended is None else ended) - began)
            words += f", from {utc(began):%H:%M:%S} {until} UTC, {took}, {sent:,.2f} MB"
        found.append(_Table(f"Wave {wave + 1}", words, _rows(boards, told)))
    if told.skipped:
        found.append(_Table("In no wave", f"{_boards(len(told.skipped))} that get nothing", _rows(told.skipped, told)))
    return found


def _rows(boards: Sequence[Told], told: Chronicle) -> tuple[_Row, ...]:
    return tuple(_Row.of(one, told.last) for one in boards)


def _boards(count: int) -> str:
    return f"{count} {'board' if count == 1 else 'boards'}"


def policy_in_words(planned: Planned) -> list[str]:
    """Return the policy of a rollout, and what it came to for these boards, as sentences."""
    policy = planned.policy
    sentences = [_wave_in_words(planned, wave, soak) for wave, soak in enumerate(planned.soaks)]
    if policy.waves:
        sentences.append(f"Asked for, in turn: {'; '.join(_choice(w) for w in policy.waves)}; then all that are left.")
    stops = "at the first failure" if policy.max_failures == 0 else f"when more than {policy.max_failures} fail"
    then = {
        OnFailure.ROLLBACK_WAVE: "the wave that failed goes back to its releases before",
        OnFailure.ROLLBACK_ALL: "every board that it updated goes back to its release before",
        OnFailure.STOP: "every board stays as it is",
    }[policy.on_failure]
    sentences.append(f"At most {_share(policy.max_unavailable)} out of service at once. It stops {stops}; then {then}.")
    sentences.append(_gates_in_words(policy.gates))
    tries = f"{policy.attempts} {'try' if policy.attempts == 1 else 'tries'}"
    sentences.append(
        f"A board has {roughly(policy.board_seconds)}, then it counts as failed; it is unreachable after {tries}."
    )
    if policy.reserved is Reserved.WAIT:
        until = roughly(policy.reserved_seconds)
        sentences.append(f"A board that somebody has reserved is waited for, {until} at most.")
    else:
        sentences.append("A board that somebody has reserved is left out.")
    if policy.windows:
        sentences.append(f"Boards are touched only in: {'; '.join(policy.windows)}.")
    return sentences


def _gates_in_words(gates: GatesSpec) -> str:
    asked = ["answers the golden images as the host does"] if gates.self_check else []
    if gates.max_drop is not None:
        asked.append(f"loses at most {gates.max_drop:g} points of top-1 against float")
    if gates.max_p99_slower is not None:
        asked.append(f"has a p99 latency at most {gates.max_p99_slower:g} % above that of its release before")
    if gates.max_temperature is not None:
        asked.append(f"stays at {gates.max_temperature:g} °C or below")
    return f"A board passes when it {'; '.join(asked)}." if asked else "No gate: a board passes when it is updated."


def _wave_in_words(planned: Planned, wave: int, soak: float) -> str:
    words = f"Wave {wave + 1}: {_boards(sum(p.wave == wave and p.skipped is None for p in planned.places))}"
    if wave in planned.approvals:
        words += ", after an approval"
    return f"{words}; then {roughly(soak)} of soak." if soak else f"{words}."


def _choice(wave: Wave) -> str:
    if wave.select is not None:
        return wave.select
    return _boards(wave.count) if wave.count is not None else f"{wave.percent:g} % of the boards"


def _share(share: Share) -> str:
    return f"{share} of the boards" if isinstance(share, str) else _boards(share)


_FILTERS: Mapping[str, Callable[..., object]] = {
    "clock": lambda at: f"{utc(at):%Y-%m-%d %H:%M:%S}",
    "lasting": lasting,
    "short": short,
}
