"""benchmark: interleaved rounds of releases on one board; then their answers, layer costs and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from bpudeploy.boards.base import Board
from bpudeploy.effects.agent import Agent, agent_on
from bpudeploy.effects.blobs import is_file, upload_blob
from bpudeploy.effects.messages import (
    CommandDone,
    FrameLatencies,
    Governors,
    LayerCosts,
    Message,
    ModelLoaded,
    Sensors,
    ToolTiming,
    TopClasses,
)
from bpudeploy.effects.session_log import SessionLog
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
"""Maximum time of one frame before the board reports a hang."""
_SILENCE_S = 2 * _FRAME_S
_POLL_S = 2.0
_TOP = 5
_PROFILED = 10
"""Frames under the runtime's profiler."""
_MEMORY_IMAGES = 8
"""Images to classify when measuring memory."""


@dataclass(frozen=True)
class BenchBinary:
    """A contender's binary: in the store, its path on the board if installed, and its runtime."""

    artifact: Artifact
    runtime: str
    installed: PurePosixPath
    driver: Path | None = None
    """The file of the runtime's driver, if the agent has none."""


@dataclass(frozen=True)
class _Session:
    """Shared state of a session."""

    agent: Agent
    log: SessionLog
    binaries: tuple[tuple[PurePosixPath, BenchBinary], ...]
    samples: PurePosixPath
    emit: Callable[[Event], None]

    @property
    def method(self) -> BenchmarkSpec:
        return self.log.setting.method

    def at(self, t: float) -> float:
        """Return the board's monotonic time as seconds since the session began, across reconnects and reboots."""
        began = [one for one in self.log.entries if isinstance(one, AgentStarted)]
        return began[-1].at - began[0].at + t - began[-1].t


def bench(
    board: Board,
    binaries: Sequence[BenchBinary],
    samples: Artifact,
    log: SessionLog,
    emit: Callable[[Event], None],
) -> tuple[Measurement, ...]:
    """Measure ``binaries`` on a board, interleaved. Activates nothing; clock settings are restored at the end.

    Work that the log already contains is not repeated.

    Args:
        binaries: one for each contender of the log's setting.
        samples: the evaluation set that the setting names.

    Raises:
        ConnectionLost: the log keeps what was measured before.
        BoardError: the agent failed, hung, or broke the protocol.
    """
    data = upload_blob(board, samples.path, samples.digest, "safetensors", emit, step=STEP)
    paths = tuple((_path_on_board(board, one, emit), one) for one in binaries)
    drivers = {one.runtime: one.driver for one in binaries if one.driver is not None}
    with agent_on(board, emit, step=STEP, drivers=drivers) as agent:
        session = _Session(agent, log, paths, data, emit)
        _begin(session)
        while (following := next_round(log.entries, log.setting)) is not None:
            _round(session, *following)
        for contender in range(len(binaries)):
            _finish(session, contender)
        board_id = agent.hello.facts.board_id or f"{agent.hello.facts.machine} {agent.hello.facts.hostname}"
    for contender in range(len(binaries)):
        if not entries_of(log.entries, PeakMemory, contender):
            # A new process: the peak memory of one covers all the models that it has loaded.
            with agent_on(board, emit, step=STEP, drivers=drivers) as agent:
                _measure_memory(replace(session, agent=agent), contender)
    return measurements_of(log.setting, log.entries, board_id)


def _path_on_board(board: Board, binary: BenchBinary, emit: Callable[[Event], None]) -> PurePosixPath:
    """Return the binary's path: in its installed release, otherwise uploaded as a blob. The agent verifies it."""
    if is_file(board, binary.installed, step=STEP):
        return binary.installed
    return upload_blob(board, binary.artifact.path, binary.artifact.digest, "bin", emit, step=STEP)


def _begin(session: _Session) -> None:
    hello, entries = session.agent.hello, session.log.entries
    before = [one for one in entries if isinstance(one, AgentStarted)]
    if before:
        why = "the board was rebooted" if before[-1].boot != hello.boot else "it was interrupted"
        done = sum(isinstance(one, RoundTimed) for one in entries)
        images = sum(len(one.top) for one in entries if isinstance(one, Answered))
        session.emit(Note(STEP, f"resumed after {done} rounds and {images} images: {why}"))
    if hello.healed:
        session.emit(Note(STEP, f"restored {', '.join(hello.healed)}, which an earlier run had left changed"))
    session.log.write(AgentStarted(boot=hello.boot, at=time.time(), t=hello.t, facts=hello.facts))
    if session.method.governor is GovernorMode.PERFORMANCE:
        governors = session.agent.request("performance", Governors, within=60.0)
        if governors.refused:
            session.emit(Note(STEP, f"the clocks are not locked to their maximum: {governors.refused}"))


def _round(session: _Session, contender: int, index: int) -> None:
    """Run one round: cool down, load, warm up, time single frames, then several streams."""
    method = session.method
    hot = not _cool_down(session)
    before = time.perf_counter()
    loaded = _load(session, contender)
    place = sum(isinstance(one, RoundTimed) for one in session.log.entries)
    share = {
        "min_frames": max(2, math.ceil(method.min_frames / method.rounds)),
        "min_seconds": method.min_seconds / method.rounds,
        "max_seconds": max(0.1, method.max_seconds / method.rounds),
    }
    lines = _ask_round(session, share, streams=1, warmup=method.warmup)
    readings = [_conditions(session, line, f"round {index}") for line in lines if isinstance(line, Sensors)]
    for reading in readings:
        session.log.write(SensorReading(conditions=reading))
    fps = {n: _fps(session, share, n, loaded.batch) for n in (method.streams if loaded.streams else ())}
    samples, per_sample, frames = _timed(session, lines)
    started = next(line.started for line in lines if isinstance(line, CommandDone))
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
    session.log.write(RoundTimed(contender=contender, round=one, seconds=time.perf_counter() - before, fps=fps))
    done, wanted = _frames(session), method.min_frames * len(session.binaries)
    session.emit(Progress(STEP, done, max(done, wanted), "frames"))


def _frames(session: _Session) -> int:
    """Return the number of single frames timed so far, of all contenders."""
    return sum(one.round.frames for one in session.log.entries if isinstance(one, RoundTimed))


def _cool_down(session: _Session) -> bool:
    """Wait until the board is cool enough; return False if the time limit was reached."""
    limit = session.method.cool_below
    if limit is None:
        return True
    deadline = time.monotonic() + session.method.cool_seconds
    reported = False
    while True:
        reading = _conditions(session, session.agent.request("conditions", Sensors, within=60.0), "cooling")
        heat = hottest([reading])
        if heat is None or heat < limit:
            return True
        session.log.write(SensorReading(conditions=reading))
        if time.monotonic() >= deadline:
            return False
        if not reported:
            session.emit(Note(STEP, f"waiting for the board to cool below {limit:g} °C: {heat:.0f} °C now"))
            reported = True
        time.sleep(_POLL_S)


def _load(session: _Session, contender: int) -> ModelLoaded:
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
    if loaded.images != len(session.log.setting.labels):
        raise session.agent.error(f"the agent found {loaded.images} images, not {len(session.log.setting.labels)}")
    if not entries_of(session.log.entries, Ready, contender):
        ready = Ready(contender=contender, batch=loaded.batch, runtime=loaded.runtime, driver=loaded.driver)
        session.log.write(ready)
        if session.method.streams and not loaded.streams:
            why = f"{loaded.driver} runs one frame at a time, and the board has no hrt_model_exec"
            session.emit(Note(STEP, f"the throughput of several streams is not measured: {why}"))
    return loaded


def _ask_round(session: _Session, share: dict[str, float], **wanted: int) -> list[Message]:
    """Run a round of ``wanted`` streams and warm-up frames."""
    within = _FRAME_S + 4 * share["max_seconds"]
    return list(session.agent.stream("round", within=within, first=_frames(session), **wanted, **share))


def _fps(session: _Session, share: dict[str, float], streams: int, batch: int) -> float:
    lines = _ask_round(session, share, streams=streams, warmup=0)
    tool = [line for line in lines if isinstance(line, ToolTiming)]
    if tool:
        return math.fsum(line.fps for line in tool) / len(tool)
    done = next(line for line in lines if isinstance(line, CommandDone))
    if not done.frames or not done.seconds:
        raise session.agent.error(f"no frames were timed with {streams} streams")
    return done.frames * batch / done.seconds


def _timed(session: _Session, lines: Sequence[Message]) -> tuple[tuple[float, ...], int, int]:
    """Return the samples in ms, the frames that each sample is the mean of, and the total frames."""
    single = tuple(ms for line in lines if isinstance(line, FrameLatencies) for ms in line.ms)
    if single:
        return single, 1, len(single)
    tool = [line for line in lines if isinstance(line, ToolTiming)]
    if not tool or len({line.frames for line in tool}) > 1:
        raise session.agent.error("no frames were timed in a round")
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
    """Collect the missing answers, and the cost of each layer."""
    log, total = session.log, len(session.log.setting.labels)
    if answered(log.entries, contender) == total and entries_of(log.entries, LayerProfile, contender):
        return
    _load(session, contender)
    first = answered(log.entries, contender)
    if first < total:
        for line in session.agent.stream(
            "classify", within=_SILENCE_S, first=first, last=total, top=_TOP, logits=False
        ):
            if isinstance(line, TopClasses):
                if line.first != answered(log.entries, contender):
                    raise session.agent.error(f"the agent answered for image {line.first} out of order")
                log.write(Answered(contender=contender, first=line.first, top=line.classes))
                session.emit(Progress(STEP, answered(log.entries, contender), total, "images"))
    log.write(LayerProfile(contender=contender, layers=_layer_costs(session)))
    if len(session.binaries) == 1:
        _unload(session, contender)


def _layer_costs(session: _Session) -> tuple[LayerCost, ...]:
    return session.agent.request("layers", LayerCosts, within=_FRAME_S * _PROFILED, frames=_PROFILED).layers


def _measure_memory(session: _Session, contender: int) -> None:
    """Run a few frames and images of only this contender, to measure its peak memory."""
    loaded = _load(session, contender)
    few = {"min_frames": 2, "min_seconds": 0.0, "max_seconds": 1.0}
    for streams in (1, *(session.method.streams if loaded.streams else ())):
        _ask_round(session, few, streams=streams, warmup=1)
    some = min(len(session.log.setting.labels), _MEMORY_IMAGES)
    list(session.agent.stream("classify", within=_SILENCE_S, first=0, last=some, top=_TOP, logits=False))
    _layer_costs(session)
    _unload(session, contender)


def _unload(session: _Session, contender: int) -> None:
    done = session.agent.request("unload", CommandDone, within=60.0)
    if done.peak_memory_mb is not None:
        session.log.write(PeakMemory(contender=contender, peak_mb=done.peak_memory_mb))
