"""benchmark: releases on one board, in turns, round by round; then their answers, their layers, their memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.effects.agent import Agent, agent_on
from bpudeploy.effects.lines import (
    Done,
    Frames,
    Governors,
    LayerCosts,
    Line,
    Loaded,
    Sensors,
    ToolTimed,
    Top,
)
from bpudeploy.effects.notebook import Notebook
from bpudeploy.effects.place import place
from bpudeploy.effects.remote import is_file
from bpudeploy.events import Event, Note, Progress
from bpudeploy.results.measurement import Caveat, Clock, Conditions, LayerCost, Measurement, Round
from bpudeploy.results.session import (
    AgentStarted,
    Answered,
    LayerProfile,
    PeakMemory,
    Ready,
    RoundTimed,
    SensorReading,
    answered,
    caveats_of,
    entries_of,
    hottest,
    measurements_of,
    next_round,
    others_of,
)
from bpudeploy.spec.recipe import BenchmarkSpec, GovernorMode
from bpudeploy.stage import Artifact

STEP = "benchmark"
_FRAME_S = 300.0
"""What one frame may take, at most, before the board calls it hung."""
_SILENCE_S = 2 * _FRAME_S
_POLL_S = 2.0
_TOP = 5
_PROFILED = 10
"""Frames under the runtime's profiler."""
_FEW = 8
"""Images of the evaluation set that show what classifying takes of the memory."""


@dataclass(frozen=True)
class Binary:
    """What a contender runs: where it is on the board if it is there, here, and by which runtime."""

    artifact: Artifact
    runtime: str
    installed: PurePosixPath


@dataclass(frozen=True)
class _Session:
    """What every part of a session needs."""

    board: Board
    agent: Agent
    book: Notebook
    binaries: tuple[tuple[PurePosixPath, Binary], ...]
    samples: PurePosixPath
    emit: Callable[[Event], None]

    @property
    def method(self) -> BenchmarkSpec:
        return self.book.setting.method

    def at(self, t: float) -> float:
        """Return the board's monotonic time as seconds since the session began, over cuts and restarts."""
        began = [one for one in self.book.entries if isinstance(one, AgentStarted)]
        return began[-1].at - began[0].at + t - began[-1].t


def bench(
    board: Board,
    binaries: Sequence[Binary],
    samples: Artifact,
    book: Notebook,
    emit: Callable[[Event], None],
) -> tuple[Measurement, ...]:
    """Measure ``binaries`` on a board in turns; nothing is activated there, and its clocks are as before at the end.

    What the notebook says already is not done again.

    Args:
        binaries: one for each contender of the notebook's setting.
        samples: the evaluation set, whose digest and labels the setting names.

    Raises:
        ConnectionLost: the notebook keeps what came before.
        BoardError: the agent failed, hung, or said something that is not its protocol.
    """
    data = place(board, samples.path, samples.digest, "safetensors", emit, step=STEP)
    paths = tuple((_at(board, one, emit), one) for one in binaries)
    with agent_on(board, emit, step=STEP) as agent:
        session = _Session(board, agent, book, paths, data, emit)
        _begin(session)
        while (following := next_round(book.entries, book.setting)) is not None:
            _round(session, *following)
        for contender in range(len(binaries)):
            _finish(session, contender)
        board_id = agent.hello.facts.board_id or f"{agent.hello.facts.machine} {agent.hello.facts.hostname}"
    for contender in range(len(binaries)):
        if not entries_of(book.entries, PeakMemory, contender):
            with agent_on(board, emit, step=STEP) as agent:  # one process's peak cannot be told apart
                _alone(replace(session, agent=agent), contender)
    return measurements_of(book.setting, book.entries, board_id)


def _at(board: Board, binary: Binary, emit: Callable[[Event], None]) -> PurePosixPath:
    """Return where a binary is: in its release, if the board has that, else under its digest. The agent verifies it."""
    if is_file(board, binary.installed, step=STEP):
        return binary.installed
    return place(board, binary.artifact.path, binary.artifact.digest, "bin", emit, step=STEP)


def _begin(session: _Session) -> None:
    hello, entries = session.agent.hello, session.book.entries
    before = [one for one in entries if isinstance(one, AgentStarted)]
    if before:
        why = "the board was rebooted" if before[-1].boot != hello.boot else "it was cut off"
        done = sum(isinstance(one, RoundTimed) for one in entries)
        images = sum(len(one.top) for one in entries if isinstance(one, Answered))
        session.emit(Note(STEP, f"{why} in between: going on after {done} rounds and {images} images"))
    if hello.healed:
        session.emit(Note(STEP, f"an earlier run could not put back {', '.join(hello.healed)}: done now"))
    session.book.write(AgentStarted(boot=hello.boot, at=time.time(), t=hello.t, facts=hello.facts))
    if session.method.governor is GovernorMode.PERFORMANCE:
        told = session.agent.told("performance", Governors, within=60.0)
        if told.refused:
            session.emit(Note(STEP, f"its clocks are not held at their maximum: {told.refused}"))


def _round(session: _Session, contender: int, index: int) -> None:
    """Run one round: cool down, load, warm up, one frame after another, then several at once."""
    method = session.method
    hot = not _cool(session)
    before = time.perf_counter()
    loaded = _load(session, contender)
    place = sum(isinstance(one, RoundTimed) for one in session.book.entries)
    share = {
        "min_frames": max(2, math.ceil(method.min_frames / method.rounds)),
        "min_seconds": method.min_seconds / method.rounds,
        "max_seconds": max(0.1, method.max_seconds / method.rounds),
    }
    lines = list(_ask_round(session, share, streams=1, warmup=method.warmup))
    readings = [_conditions(session, line, f"round {index}") for line in lines if isinstance(line, Sensors)]
    for reading in readings:
        session.book.write(SensorReading(conditions=reading))
    fps = {n: _fps(session, share, n, loaded.batch) for n in (method.streams if loaded.streams else ())}
    samples, per_sample, frames = _timed(session, lines)
    started = next(line.started for line in lines if isinstance(line, Done))
    one = Round(
        index=index,
        place=place,
        started_s=session.at(started or 0.0),
        load_seconds=loaded.seconds,
        frames=frames,
        per_sample=per_sample,
        samples_ms=samples,
        hottest_c=hottest(readings),
        others_cores=others_of(readings),
        caveats=(*caveats_of(readings), *((Caveat.HOT,) if hot else ())),
    )
    session.book.write(RoundTimed(contender=contender, round=one, seconds=time.perf_counter() - before, fps=fps))
    _tell_frames(session)


def _frames(session: _Session) -> int:
    """Return how many frames were timed, one after another, of all contenders."""
    return sum(one.round.frames for one in session.book.entries if isinstance(one, RoundTimed))


def _tell_frames(session: _Session) -> None:
    done = _frames(session)
    wanted = session.method.min_frames * len(session.binaries)
    session.emit(Progress(STEP, done, max(done, wanted), "frames"))


def _cool(session: _Session) -> bool:
    """Wait until the board is cool enough to begin; False: it did not get there in time."""
    limit = session.method.cool_below
    if limit is None:
        return True
    deadline = time.monotonic() + session.method.cool_seconds
    told = False
    while True:
        reading = _conditions(session, session.agent.told("conditions", Sensors, within=60.0), "cooling")
        heat = hottest([reading])
        if heat is None or heat < limit:
            return True
        session.book.write(SensorReading(conditions=reading))
        if time.monotonic() >= deadline:
            return False
        if not told:
            session.emit(Note(STEP, f"waiting for it to cool: {heat:.0f} °C, below {limit:g} is wanted"))
            told = True
        time.sleep(_POLL_S)


def _load(session: _Session, contender: int) -> Loaded:
    path, binary = session.binaries[contender]
    loaded = session.agent.load(
        str(contender),
        path,
        binary.artifact.digest,
        binary.runtime,
        session.samples,
        threads=session.method.threads or 0,
        within=_FRAME_S,
    )
    if loaded.images != len(session.book.setting.labels):
        raise session.agent.error(f"it finds {loaded.images} images, not {len(session.book.setting.labels)}")
    if not entries_of(session.book.entries, Ready, contender):
        ready = Ready(contender=contender, batch=loaded.batch, runtime=loaded.runtime, driver=loaded.driver)
        session.book.write(ready)
        if session.method.streams and not loaded.streams:
            why = f"{loaded.driver} runs one frame at a time, and the board has no hrt_model_exec"
            session.emit(Note(STEP, f"the throughput of several streams is not measured: {why}"))
    return loaded


def _ask_round(session: _Session, share: dict[str, float], *, streams: int, warmup: int) -> Iterator[Line]:
    within = _FRAME_S + 4 * share["max_seconds"]
    yield from session.agent.ask(
        "round", within=within, first=_frames(session), streams=streams, warmup=warmup, **share
    )


def _fps(session: _Session, share: dict[str, float], streams: int, batch: int) -> float:
    lines = list(_ask_round(session, share, streams=streams, warmup=0))
    tool = [line for line in lines if isinstance(line, ToolTimed)]
    if tool:
        return math.fsum(line.fps for line in tool) / len(tool)
    done = next(line for line in lines if isinstance(line, Done))
    if not done.frames or not done.seconds:
        raise session.agent.error(f"{streams} streams gave no frames")
    return done.frames * batch / done.seconds


def _timed(session: _Session, lines: Sequence[Line]) -> tuple[tuple[float, ...], int, int]:
    """Return the samples in ms, how many frames each is the mean of, and the frames in all."""
    single = tuple(ms for line in lines if isinstance(line, Frames) for ms in line.ms)
    if single:
        return single, 1, len(single)
    tool = [line for line in lines if isinstance(line, ToolTimed)]
    if not tool or len({line.frames for line in tool}) > 1:
        raise session.agent.error("a round gave no frames")
    return tuple(line.mean_ms for line in tool), tool[0].frames, sum(line.frames for line in tool)


def _conditions(session: _Session, line: Sensors, during: str) -> Conditions:
    cpu = {f"cpu {name}": Clock(cur=clock.cur * 1000, max=clock.max * 1000) for name, clock in line.cpu_khz.items()}
    bpu = {f"bpu {name}": Clock(cur=clock.cur, max=clock.max) for name, clock in line.bpu_hz.items()}
    return Conditions(
        at_s=session.at(line.t),
        during=during,
        temperatures_c=line.temperatures_c,
        clocks_hz=cpu | bpu,
        bpu_busy=line.bpu_busy,
        governors=line.governors,
        load_1min=line.load_1min,
        others_cores=line.others_cores,
    )


def _finish(session: _Session, contender: int) -> None:
    """Ask for the answers that are missing, and for what each layer takes."""
    book, total = session.book, len(session.book.setting.labels)
    if answered(book.entries, contender) == total and entries_of(book.entries, LayerProfile, contender):
        return
    _load(session, contender)
    first = answered(book.entries, contender)
    if first < total:
        for line in session.agent.ask("classify", within=_SILENCE_S, first=first, last=total, top=_TOP, logits=False):
            if isinstance(line, Top):
                if line.first != answered(book.entries, contender):
                    raise session.agent.error(f"it answers for image {line.first} out of turn")
                book.write(Answered(contender=contender, first=line.first, top=line.classes))
                session.emit(Progress(STEP, answered(book.entries, contender), total, "images"))
    book.write(LayerProfile(contender=contender, layers=_costs(session)))
    if len(session.binaries) == 1:
        _unload(session, contender)


def _costs(session: _Session) -> tuple[LayerCost, ...]:
    return session.agent.told("layers", LayerCosts, within=_FRAME_S * _PROFILED, frames=_PROFILED).layers


def _alone(session: _Session, contender: int) -> None:
    """Do a little of everything with only this contender, for the memory that it takes."""
    loaded = _load(session, contender)
    few = {"min_frames": 2, "min_seconds": 0.0, "max_seconds": 1.0}
    for streams in (1, *(session.method.streams if loaded.streams else ())):
        list(_ask_round(session, few, streams=streams, warmup=1))
    some = min(len(session.book.setting.labels), _FEW)
    list(session.agent.ask("classify", within=_SILENCE_S, first=0, last=some, top=_TOP, logits=False))
    _costs(session)
    _unload(session, contender)


def _unload(session: _Session, contender: int) -> None:
    done = [line for line in session.agent.ask("unload", within=60.0) if isinstance(line, Done)]
    if done[-1].peak_memory_mb is not None:
        session.book.write(PeakMemory(contender=contender, peak_mb=done[-1].peak_memory_mb))
