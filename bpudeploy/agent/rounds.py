"""Measurements: latency frame by frame, throughput of parallel streams, the runtime's own tool, classification."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import time
from typing import Any, Callable, Dict, Iterator, List

from .drivers.base import Refused, Session, ToolTiming
from .protocol import Classify, Round
from .samples import frame

_REPORT_S = 1.0
_REPORT_IMAGES = 32
_PREPARED = 16
"""Frames that streams cycle through: more than one image, but few enough for any board's memory."""
_CALLS = 5
"""Calls of the tool per round: a single call reports no spread."""
Send = Callable[..., None]


def run_round(
    session: Session, pixels: Any, command: Round, conditions: Callable[[], object], send: Send
) -> Dict[str, Any]:
    """Run a round of the kind that fits session and command; return the fields of its closing line.

    ``conditions`` sends a conditions line: called before, after and between timed spans, never inside one.
    """
    gc.collect()
    gc.disable()  # a collection would add to the latency of some frame
    try:
        if not session.times_frames or (command.streams > 1 and not session.parallel):
            return _tool(session, command, conditions, send)
        firsts = itertools.count(command.first, session.batch)
        frames = (session.prepare(frame(pixels, first, session.batch)) for first in firsts)
        if command.streams > 1:
            return _streams(session, list(itertools.islice(frames, _PREPARED)), command, conditions)
        return _single(session, frames, command, conditions, send)
    finally:
        gc.enable()


def _single(
    session: Session, frames: Iterator[Any], command: Round, conditions: Callable[[], object], send: Send
) -> Dict[str, Any]:
    _warm_up(session, frames, command)
    conditions()
    count, ms = 0, []
    started = now = reported = time.monotonic()
    while not command.is_complete(count, now - started):
        inputs = next(frames)
        before = time.perf_counter_ns()
        session.infer(inputs)
        ms.append((time.perf_counter_ns() - before) / 1e6)
        count += 1
        now = time.monotonic()
        if now - reported >= _REPORT_S:
            send("frames", ms=ms)
            conditions()
            reported, ms = now, []
    if ms:
        send("frames", ms=ms)
    conditions()
    return _closing(count, started, now)


def _warm_up(session: Session, frames: Iterator[Any], command: Round) -> None:
    """Run untimed frames: ``warmup``, or fewer if they take longer than the round's time limit."""
    deadline = time.monotonic() + command.max_seconds
    for inputs in itertools.islice(frames, command.warmup):
        session.infer(inputs)
        if time.monotonic() >= deadline:
            return


def _closing(frames: int, started: float, ended: float) -> Dict[str, Any]:
    return {"frames": frames, "seconds": ended - started, "started": started, "ended": ended}


def _streams(session: Session, prepared: List[Any], command: Round, conditions: Callable[[], object]) -> Dict[str, Any]:
    """Keep ``streams`` frames in flight; the whole time between start and end is timed."""
    session.reserve(command.streams)
    counts, errors = [0] * command.streams, []
    stop, ready = threading.Event(), threading.Barrier(command.streams + 1)

    def stream(number: int) -> None:
        inputs = itertools.islice(itertools.cycle(prepared), number % len(prepared), None)
        try:
            for frame_inputs in itertools.islice(inputs, command.warmup):
                session.infer(frame_inputs)
            ready.wait()  # all streams are warm
            ready.wait()  # the conditions are recorded
            while not stop.is_set() or not counts[number]:
                session.infer(next(inputs))
                counts[number] += 1
        except threading.BrokenBarrierError:
            pass  # another stream failed
        except Exception as error:
            errors.append(error)
            stop.set()
            ready.abort()

    threads = [threading.Thread(target=stream, args=(number,), daemon=True) for number in range(command.streams)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    try:
        ready.wait()
        conditions()
        started = time.monotonic()
        ready.wait()
        while not stop.is_set() and not command.is_complete(sum(counts), time.monotonic() - started):
            stop.wait(0.02)
    except threading.BrokenBarrierError:
        pass
    stop.set()
    for thread in threads:
        thread.join()
    ended = time.monotonic()
    if errors:
        raise errors[0]
    conditions()
    return _closing(sum(counts), started, ended)


def _tool(session: Session, command: Round, conditions: Callable[[], object], send: Send) -> Dict[str, Any]:
    """Call the runtime's own tool several times, with a number of frames estimated from a first call."""
    first = session.timed(max(1, command.warmup), command.streams)
    conditions()
    wanted = max(command.min_frames, first.fps * min(command.min_seconds, command.max_seconds))
    count, call = 0, max(command.streams, math.ceil(wanted / _CALLS))
    started = now = time.monotonic()
    while not command.is_complete(count, now - started):
        timed: ToolTiming = session.timed(call, command.streams)
        now = time.monotonic()
        send("timed", **vars(timed))
        conditions()
        count += timed.frames
    return _closing(count, started, now)


def classify(session: Session, pixels: Any, command: Classify, send: Send) -> Dict[str, Any]:
    """Send the top classes of images ``first`` to ``last`` - 1, or all their logits.

    Raises:
        Refused: the images do not exist, or a logit is not finite.
    """
    if not command.first < command.last <= len(pixels):
        raise Refused(f"images {command.first} to {command.last} of {len(pixels)}", "request images that were sent")
    rows: List[List[float]] = []
    first, reported = command.first, time.monotonic()
    for at in range(command.first, command.last, session.batch):
        logits = _logits(session, frame(pixels, at, session.batch), at)
        rows += logits[: command.last - at]
        if len(rows) >= _REPORT_IMAGES or time.monotonic() - reported >= _REPORT_S or first + len(rows) == command.last:
            _send_answers(rows, first, command, send)
            first, reported, rows = first + len(rows), time.monotonic(), []
    return {"images": command.last - command.first}


def _logits(session: Session, images: Any, at: int) -> List[List[float]]:
    import numpy

    logits = numpy.asarray(session.infer(session.prepare(images)))
    if logits.ndim != 2 or len(logits) != session.batch:
        raise Refused(f"the network returned {logits.shape}, not ({session.batch}, classes)", "is it a classifier?")
    wrong = numpy.flatnonzero(~numpy.isfinite(logits).all(axis=1))
    if len(wrong):
        raise Refused(
            f"a logit of image {at + int(wrong[0])} is not a finite number",
            "look for an overflow in the network: bpudeploy sensitivity names the layer",
        )
    rows: List[List[float]] = logits.tolist()
    return rows


def _send_answers(rows: List[List[float]], first: int, command: Classify, send: Send) -> None:
    if command.logits:
        send("logits", first=first, values=rows)
        return
    best = [sorted(range(len(row)), key=lambda i: (-row[i], i))[: command.top] for row in rows]
    scores = [[row[i] for i in order] for row, order in zip(rows, best)]
    send("answers", first=first, classes=best, scores=scores)
