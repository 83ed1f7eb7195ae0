"""A benchmark session as the list of what has been done, and the measurements that follow from it.

Every fact is an entry that is written down when it is known. What is still to do follows from the entries too: so a
session that was cut goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bpudeploy.provenance import Provenance
from bpudeploy.results.latency import latency_of, mean_of
from bpudeploy.results.measurement import (
    Answers,
    BoardFacts,
    BuildFacts,
    Caveat,
    Conditions,
    Interval,
    LayerCost,
    Measurement,
    Round,
    Score,
    Subject,
    Throughput,
)
from bpudeploy.results.statistics import wilson
from bpudeploy.spec.recipe import BenchmarkSpec

_NOISY_CORES = 0.2
"""Cores that others may keep busy, on average over a round, before it is called noisy."""
_FULL = 0.98
"""Of its maximum, what a clock that is held there must show."""
_HELD = ("performance", "userspace")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Began(_Entry):
    """An agent is there; a second one means that the first was cut off."""

    entry: Literal["began"] = "began"
    boot: str
    at: float
    """The host's clock, seconds since 1970."""
    t: float
    """The board's monotonic clock."""
    facts: BoardFacts


class Ready(_Entry):
    """A contender was loaded for the first time."""

    entry: Literal["ready"] = "ready"
    contender: int
    batch: int
    runtime: str
    driver: str


class Timed(_Entry):
    """A round has ended."""

    entry: Literal["timed"] = "timed"
    contender: int
    round: Round
    seconds: float
    """From its load to its end, without the wait for it to cool."""
    fps: Mapping[int, float]
    """Streams to images a second."""


class Reading(_Entry):
    """What the sensors said."""

    entry: Literal["reading"] = "reading"
    conditions: Conditions


class Answered(_Entry):
    """The best classes of some images, from ``first`` on."""

    entry: Literal["answered"] = "answered"
    contender: int
    first: int
    top: tuple[tuple[int, ...], ...]


class Costs(_Entry):
    """What the runtime's profiler says."""

    entry: Literal["costs"] = "costs"
    contender: int
    layers: tuple[LayerCost, ...]


class Memory(_Entry):
    """The most that the agent's process held, in MB, while only this contender was loaded in it."""

    entry: Literal["memory"] = "memory"
    contender: int
    peak_mb: float


Entry = Began | Ready | Timed | Reading | Answered | Costs | Memory
ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="entry")])
E = TypeVar("E", Ready, Timed, Answered, Costs, Memory)


class Contender(_Entry):
    """One of those that a session measures in turns."""

    subject: Subject
    expected: tuple[int, ...] | None
    """The best class of each image on the host, in integers; None where the host has none."""
    build: BuildFacts | None = None


class Setting(_Entry):
    """What a session is of, beside its entries."""

    session: str
    made: str
    """UTC, ISO 8601."""
    contenders: tuple[Contender, ...]
    samples: str
    labels: tuple[int, ...]
    method: BenchmarkSpec
    board: str
    device: str
    provenance: Provenance
    versions: Mapping[str, str]


def of(entries: Sequence[Entry], kind: type[E], contender: int) -> list[E]:
    """Return a contender's entries of a kind, the oldest first."""
    return [one for one in entries if isinstance(one, kind) and one.contender == contender]


def answered(entries: Sequence[Entry], contender: int) -> int:
    """Return how many images have an answer: the first that has none, too."""
    return sum(len(one.top) for one in of(entries, Answered, contender))


def next_round(entries: Sequence[Entry], setting: Setting) -> tuple[int, int] | None:
    """Return (contender, index) of the next round, or None when there are enough of them.

    The one with fewer rounds is next; in a tie they take turns at being first (ABBA), so that a drift of the board
    falls on each alike.
    """
    done = [len(of(entries, Timed, i)) for i in range(len(setting.contenders))]
    index = min(done)
    if len(set(done)) == 1 and all(_enough(entries, setting.method, i) for i in range(len(done))):
        return None
    waiting = [i for i, count in enumerate(done) if count == index]
    first = index % len(done)
    return min(waiting, key=lambda i: (i - first) % len(done)), index


def _enough(entries: Sequence[Entry], method: BenchmarkSpec, contender: int) -> bool:
    timed = of(entries, Timed, contender)
    if len(timed) < 2:
        return False
    return sum(one.seconds for one in timed) >= method.max_seconds or not _short(timed, method)


def _short(timed: Sequence[Timed], method: BenchmarkSpec) -> bool:
    """Tell whether the rounds are fewer, shorter or less sharp than the method asks."""
    rounds = [one.round for one in timed]
    seconds = sum(ms * one.per_sample for one in rounds for ms in one.samples_ms) / 1000
    if len(rounds) < method.rounds or sum(one.frames for one in rounds) < method.min_frames:
        return True
    p50 = latency_of([one.samples_ms for one in rounds]).p50_ms
    return seconds < method.min_seconds or (p50.high - p50.low) / 2 > method.precision / 100 * p50.value


def caveats_of(readings: Sequence[Conditions]) -> tuple[Caveat, ...]:
    """Return what the sensors of one round say against it."""
    found = set()
    for one in readings:
        for name, governor in one.governors.items():
            if governor not in _HELD:
                found.add(Caveat.UNHELD)
            clock = one.clocks_hz.get(name)
            if governor == "performance" and clock is not None and clock.cur < _FULL * clock.max:
                found.add(Caveat.THROTTLED)
    others = others_of(readings)
    if others is not None and others > _NOISY_CORES:
        found.add(Caveat.NOISY)
    return tuple(sorted(found))


def others_of(readings: Sequence[Conditions]) -> float | None:
    """Return the cores that other processes kept busy over the readings of one round."""
    told = [one.others_cores for one in readings if one.others_cores is not None]
    return math.fsum(told) / len(told) if told else None


def hottest(readings: Sequence[Conditions]) -> float | None:
    """Return the highest temperature in degrees Celsius; None where the board has no sensor."""
    return max((c for one in readings for c in one.temperatures_c.values()), default=None)


def measurements_of(setting: Setting, entries: Sequence[Entry], board_id: str) -> tuple[Measurement, ...]:
    """Return one measurement a contender.

    Raises:
        ValueError: the session is not done.
    """
    return tuple(_measurement(setting, entries, board_id, i) for i in range(len(setting.contenders)))


def _measurement(setting: Setting, entries: Sequence[Entry], board_id: str, contender: int) -> Measurement:
    began = [one for one in entries if isinstance(one, Began)]
    timed, (ready, *_) = of(entries, Timed, contender), of(entries, Ready, contender)
    rounds = tuple(one.round for one in timed)
    who = setting.contenders[contender]
    answers = _answers(setting, entries, contender)
    memory, costs = of(entries, Memory, contender), of(entries, Costs, contender)
    return Measurement(
        provenance=setting.provenance,
        session=setting.session,
        made=setting.made,
        subject=who.subject,
        board=setting.board,
        board_id=board_id,
        device=setting.device,
        runtime=ready.runtime,
        facts=began[-1].facts,
        method=setting.method,
        batch=ready.batch,
        latency=latency_of([one.samples_ms for one in rounds], ready.batch, rounds[0].per_sample),
        load_ms=mean_of([1000 * one.load_seconds for one in rounds]),
        rounds=rounds,
        throughput=_throughput(timed),
        conditions=tuple(one.conditions for one in entries if isinstance(one, Reading)),
        caveats=_caveats(began, timed, setting.method),
        layers=costs[-1].layers if costs else (),
        score=_score(answers, who.expected),
        answers=answers,
        peak_memory_mb=memory[-1].peak_mb if memory else None,
        versions=setting.versions,
        build=who.build,
    )


def _throughput(timed: Sequence[Timed]) -> tuple[Throughput, ...]:
    streams = sorted({s for one in timed for s in one.fps})
    rows = {s: tuple(one.fps[s] for one in timed if s in one.fps) for s in streams}
    return tuple(Throughput(streams=s, fps=mean_of(row), rounds=row) for s, row in rows.items() if len(row) > 1)


def _caveats(began: Sequence[Began], timed: Sequence[Timed], method: BenchmarkSpec) -> tuple[Caveat, ...]:
    found = {caveat for one in timed for caveat in one.round.caveats}
    if len({one.boot for one in began}) > 1:
        found.add(Caveat.REBOOTED)
    elif len(began) > 1:
        found.add(Caveat.INTERRUPTED)
    if _short(timed, method):
        found.add(Caveat.SHORT)
    return tuple(sorted(found))


def _answers(setting: Setting, entries: Sequence[Entry], contender: int) -> Answers:
    top = tuple(row for one in of(entries, Answered, contender) for row in one.top)
    if len(top) != len(setting.labels):
        raise ValueError(f"{len(top)} of {len(setting.labels)} images have an answer")
    return Answers(samples=setting.samples, labels=setting.labels, top=top)


def _score(answers: Answers, expected: Sequence[int] | None) -> Score:
    n = len(answers.labels)
    deep = max(map(len, answers.top)) >= 5
    five = sum(label in top for top, label in zip(answers.top, answers.labels, strict=True))
    alike = None
    if expected is not None:
        alike = sum(top[0] == best for top, best in zip(answers.top, expected, strict=True))
    return Score(
        images=n,
        top1=wilson(sum(answers.right), n),
        top5=wilson(five, n) if deep else None,
        as_host=_share(alike, n),
    )


def _share(alike: int | None, n: int) -> Interval | None:
    return wilson(alike, n) if alike is not None else None
