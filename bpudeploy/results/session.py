"""A benchmark session as a journal of entries, and the measurements derived from it.

The next round follows from the entries alone, so an interrupted session is resumed where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter

from bpudeploy.provenance import Provenance
from bpudeploy.results.latency import latency_of, mean_of
from bpudeploy.results.measurement import (
    Answers,
    BoardFacts,
    BuildFacts,
    Caveat,
    Conditions,
    FrozenModel,
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
"""Average number of cores used by other processes above which a round is noisy."""
_FULL = 0.98
"""Share of its maximum below which a locked clock is throttled."""
_LOCKED = ("performance", "userspace")


class AgentStarted(FrozenModel):
    """An agent started on the board; a second entry means that the first was interrupted."""

    entry: Literal["began"] = "began"
    boot: str
    at: float
    """Unix time on the host."""
    t: float
    """The board's monotonic clock, in seconds."""
    facts: BoardFacts


class Ready(FrozenModel):
    """A contender was loaded for the first time."""

    entry: Literal["ready"] = "ready"
    contender: int
    batch: int
    runtime: str
    driver: str


class RoundTimed(FrozenModel):
    """A round was completed."""

    entry: Literal["timed"] = "timed"
    contender: int
    round: Round
    seconds: float
    """From the load to the end of the round, without the cool-down before it."""
    fps: Mapping[int, float]
    """Images per second per number of streams."""


class SensorReading(FrozenModel):
    """One reading of the board's sensors."""

    entry: Literal["reading"] = "reading"
    conditions: Conditions


class Answered(FrozenModel):
    """The top classes of consecutive images, the first of which is ``first``."""

    entry: Literal["answered"] = "answered"
    contender: int
    first: int
    top: tuple[tuple[int, ...], ...]


class LayerProfile(FrozenModel):
    """The output of the runtime's profiler."""

    entry: Literal["costs"] = "costs"
    contender: int
    layers: tuple[LayerCost, ...]


class PeakMemory(FrozenModel):
    """Peak memory of an agent process that loaded only this contender, in MB."""

    entry: Literal["memory"] = "memory"
    contender: int
    peak_mb: float


Entry = AgentStarted | Ready | RoundTimed | SensorReading | Answered | LayerProfile | PeakMemory
ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="entry")])
E = TypeVar("E", Ready, RoundTimed, Answered, LayerProfile, PeakMemory)


class Contender(FrozenModel):
    """One of the releases that a session measures interleaved."""

    subject: Subject
    expected: tuple[int, ...] | None
    """Top-1 class per image of the host's integer reference; None if there is none."""
    build: BuildFacts | None = None


class Setting(FrozenModel):
    """The parameters of a session."""

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


def entries_of(entries: Sequence[Entry], kind: type[E], contender: int) -> list[E]:
    """Return a contender's entries of one type, oldest first."""
    return [one for one in entries if isinstance(one, kind) and one.contender == contender]


def answered(entries: Sequence[Entry], contender: int) -> int:
    """Return how many images have an answer, which is the index of the first one without."""
    return sum(len(one.top) for one in entries_of(entries, Answered, contender))


def next_round(entries: Sequence[Entry], setting: Setting) -> tuple[int, int] | None:
    """Return (contender, index) of the next round, or None if there are enough.

    The contender with the fewest rounds is next. In a tie the order alternates (ABBA), so that a drift of the board
    affects all of them equally.
    """
    done = [len(entries_of(entries, RoundTimed, i)) for i in range(len(setting.contenders))]
    index = min(done)
    if len(set(done)) == 1 and all(_enough(entries, setting.method, i) for i in range(len(done))):
        return None
    waiting = [i for i, count in enumerate(done) if count == index]
    first = index % len(done)
    return min(waiting, key=lambda i: (i - first) % len(done)), index


def _enough(entries: Sequence[Entry], method: BenchmarkSpec, contender: int) -> bool:
    timed = entries_of(entries, RoundTimed, contender)
    if len(timed) < 2:
        return False
    return sum(one.seconds for one in timed) >= method.max_seconds or not _short(timed, method)


def _short(timed: Sequence[RoundTimed], method: BenchmarkSpec) -> bool:
    """Return whether there are fewer rounds, frames or seconds, or less precision, than the method requires."""
    rounds = [one.round for one in timed]
    seconds = sum(ms * one.per_sample for one in rounds for ms in one.samples_ms) / 1000
    if len(rounds) < method.rounds or sum(one.frames for one in rounds) < method.min_frames:
        return True
    p50 = latency_of([one.samples_ms for one in rounds]).p50_ms
    return seconds < method.min_seconds or (p50.high - p50.low) / 2 > method.precision / 100 * p50.value


def caveats_of(readings: Sequence[Conditions]) -> tuple[Caveat, ...]:
    """Return the caveats that follow from the sensor readings of one round."""
    found = set()
    for one in readings:
        for name, governor in one.governors.items():
            if governor not in _LOCKED:
                found.add(Caveat.UNHELD)
            clock = one.clocks_hz.get(name)
            if governor == "performance" and clock is not None and clock.cur < _FULL * clock.max:
                found.add(Caveat.THROTTLED)
    others = others_of(readings)
    if others is not None and others > _NOISY_CORES:
        found.add(Caveat.NOISY)
    return tuple(sorted(found))


def others_of(readings: Sequence[Conditions]) -> float | None:
    """Return the average number of cores used by other processes during one round."""
    known = [one.others_cores for one in readings if one.others_cores is not None]
    return fmean(known) if known else None


def hottest(readings: Sequence[Conditions]) -> float | None:
    """Return the highest temperature in °C; None if the board has no sensor."""
    return max((c for one in readings for c in one.temperatures_c.values()), default=None)


def measurements_of(setting: Setting, entries: Sequence[Entry], board_id: str) -> tuple[Measurement, ...]:
    """Return one measurement per contender.

    Raises:
        ValueError: the session is not complete.
    """
    return tuple(_measurement(setting, entries, board_id, i) for i in range(len(setting.contenders)))


def _measurement(setting: Setting, entries: Sequence[Entry], board_id: str, contender: int) -> Measurement:
    starts = [one for one in entries if isinstance(one, AgentStarted)]
    timed, (ready, *_) = entries_of(entries, RoundTimed, contender), entries_of(entries, Ready, contender)
    rounds = tuple(one.round for one in timed)
    measured = setting.contenders[contender]
    answers = _answers(setting, entries, contender)
    memory, profiles = entries_of(entries, PeakMemory, contender), entries_of(entries, LayerProfile, contender)
    return Measurement(
        provenance=setting.provenance,
        session=setting.session,
        made=setting.made,
        subject=measured.subject,
        board=setting.board,
        board_id=board_id,
        device=setting.device,
        runtime=ready.runtime,
        facts=starts[-1].facts,
        method=setting.method,
        batch=ready.batch,
        latency=latency_of([one.samples_ms for one in rounds], ready.batch, rounds[0].per_sample),
        load_ms=mean_of([1000 * one.load_seconds for one in rounds]),
        rounds=rounds,
        throughput=_throughput(timed),
        conditions=tuple(one.conditions for one in entries if isinstance(one, SensorReading)),
        caveats=_caveats(starts, timed, setting.method),
        layers=profiles[-1].layers if profiles else (),
        score=_score(answers, measured.expected),
        answers=answers,
        peak_memory_mb=memory[-1].peak_mb if memory else None,
        versions=setting.versions,
        build=measured.build,
    )


def _throughput(timed: Sequence[RoundTimed]) -> tuple[Throughput, ...]:
    streams = sorted({s for one in timed for s in one.fps})
    rows = {s: tuple(one.fps[s] for one in timed if s in one.fps) for s in streams}
    return tuple(Throughput(streams=s, fps=mean_of(row), rounds=row) for s, row in rows.items() if len(row) > 1)


def _caveats(starts: Sequence[AgentStarted], timed: Sequence[RoundTimed], method: BenchmarkSpec) -> tuple[Caveat, ...]:
    found = {caveat for one in timed for caveat in one.round.caveats}
    if len({one.boot for one in starts}) > 1:
        found.add(Caveat.REBOOTED)
    elif len(starts) > 1:
        found.add(Caveat.INTERRUPTED)
    if _short(timed, method):
        found.add(Caveat.SHORT)
    return tuple(sorted(found))


def _answers(setting: Setting, entries: Sequence[Entry], contender: int) -> Answers:
    top = tuple(row for one in entries_of(entries, Answered, contender) for row in one.top)
    if len(top) != len(setting.labels):
        raise ValueError(f"{len(top)} of {len(setting.labels)} images have an answer")
    return Answers(samples=setting.samples, labels=setting.labels, top=top)


def _score(answers: Answers, expected: Sequence[int] | None) -> Score:
    n = len(answers.labels)
    in_top5 = sum(label in top for top, label in zip(answers.top, answers.labels, strict=True))
    as_host = None
    if expected is not None:
        as_host = wilson(sum(top[0] == best for top, best in zip(answers.top, expected, strict=True)), n)
    return Score(
        images=n,
        top1=wilson(sum(answers.right), n),
        top5=wilson(in_top5, n) if max(map(len, answers.top)) >= 5 else None,
        as_host=as_host,
    )
