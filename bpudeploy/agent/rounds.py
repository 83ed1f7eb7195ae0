"""What is measured: frames one after another, frames in parallel, a tool's own frames, and the answers to images."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import time
from typing import Any, Callable, Dict, Iterator, List

from .asked import Classify, Round
from .drivers.base import Refused, Session, Timed
from .samples import frame

_SAY_S = 1.0
_SAY_IMAGES = 32
_PREPARED = 16
"""Frames that streams take turns with: enough to be no one image, few enough for any board's memory."""
_CALLS = 5
"""A tool tells no spread; so many calls of it do."""
Say = Callable[..., None]


def run_round(session: Session, pixels: Any, asked: Round, conditions: Callable[[], None], say: Say) -> Dict[str, Any]:
    """Run a round of the kind that session and command call for; return what closes it.

    ``conditions`` says a line of them: it is called before, after, and at times between timed spans, never in one.
    """
    gc.collect()
    gc.disable()  # a collection would fall into some frame, and be taken for the network's
    try:
        if not session.times_frames or (asked.streams > 1 and not session.parallel):
            return _tool(session, asked, conditions, say)
        frames = (session.prepare(frame(pixels, first, session.batch)) for first in _cyclic(session, pixels, asked))
        if asked.streams > 1:
            return _streams(session, list(itertools.islice(frames, _PREPARED)), asked, conditions)
        return _single(session, frames, asked, conditions, say)
    finally:
        gc.enable()


def _cyclic(session: Session, pixels: Any, asked: Round) -> Iterator[int]:
    """Yield where each frame's images begin."""
    return (first % len(pixels) for first in itertools.count(asked.first, session.batch))


def _single(
    session: Session, frames: Iterator[Any], asked: Round, conditions: Callable[[], None], say: Say
) -> Dict[str, Any]:
    _warm_up(session, frames, asked)
    conditions()
    count, ms = 0, []
    started = now = said = time.monotonic()
    while not asked.over(count, now - started):
        fed = next(frames)
        before = time.perf_counter_ns()
        session.infer(fed)
        ms.append((time.perf_counter_ns() - before) / 1e6)
        count += 1
        now = time.monotonic()
        if now - said >= _SAY_S:
            say("frames", ms=ms)
            conditions()
            said, ms = now, []
    if ms:
        say("frames", ms=ms)
    conditions()
    return _closing(count, started, now)


def _warm_up(session: Session, frames: Iterator[Any], asked: Round) -> None:
    """Run frames that do not count: so many, or fewer where they take longer than the round itself may."""
    enough = time.monotonic() + asked.max_seconds
    for fed in itertools.islice(frames, asked.warmup):
        session.infer(fed)
        if time.monotonic() >= enough:
            return


def _closing(frames: int, started: float, ended: float) -> Dict[str, Any]:
    return {"frames": frames, "seconds": ended - started, "started": started, "ended": ended}


def _streams(session: Session, prepared: List[Any], asked: Round, conditions: Callable[[], None]) -> Dict[str, Any]:
    """Keep ``streams`` frames under way at once; all the time between start and end is timed."""
    session.reserve(asked.streams)
    counts, errors = [0] * asked.streams, []
    over, ready = threading.Event(), threading.Barrier(asked.streams + 1)

    def stream(own: int) -> None:
        turns = itertools.islice(itertools.cycle(prepared), own % len(prepared), None)
        try:
            for fed in itertools.islice(turns, asked.warmup):
                session.infer(fed)
            ready.wait()  # all are warm
            ready.wait()  # the conditions are taken
            while not over.is_set() or not counts[own]:
                session.infer(next(turns))
                counts[own] += 1
        except threading.BrokenBarrierError:
            pass  # another stream failed
        except Exception as error:
            errors.append(error)
            over.set()
            ready.abort()

    threads = [threading.Thread(target=stream, args=(own,), daemon=True) for own in range(asked.streams)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    try:
        ready.wait()
        conditions()
        started = time.monotonic()
        ready.wait()
        while not over.is_set() and not asked.over(sum(counts), time.monotonic() - started):
            over.wait(0.02)
    except threading.BrokenBarrierError:
        pass
    over.set()
    for thread in threads:
        thread.join()
    ended = time.monotonic()
    if errors:
        raise errors[0]
    conditions()
    return _closing(sum(counts), started, ended)


def _tool(session: Session, asked: Round, conditions: Callable[[], None], say: Say) -> Dict[str, Any]:
    """Call the runtime's own tool several times, for as many frames each time, as a first call says they must be."""
    first = session.timed(max(1, asked.warmup), asked.streams)
    conditions()
    wanted = max(asked.min_frames, first.fps * min(asked.min_seconds, asked.max_seconds))
    count, call = 0, max(asked.streams, math.ceil(wanted / _CALLS))
    started = now = time.monotonic()
    while not asked.over(count, now - started):
        timed: Timed = session.timed(call, asked.streams)
        now = time.monotonic()
        say("timed", **vars(timed))
        conditions()
        count += timed.frames
    return _closing(count, started, now)


def classify(session: Session, pixels: Any, asked: Classify, say: Say) -> Dict[str, Any]:
    """Say the answers to images ``first`` to ``last`` - 1, or all their logits.

    Raises:
        Refused: there are no such images, or a logit is not a number.
    """
    if not asked.first < asked.last <= len(pixels):
        raise Refused(f"images {asked.first} to {asked.last} of {len(pixels)}", "ask for images that were sent")
    rows: List[List[float]] = []
    first, said = asked.first, time.monotonic()
    for at in range(asked.first, asked.last, session.batch):
        logits = _logits(session, frame(pixels, at, session.batch), at)
        rows += logits[: asked.last - at]
        if len(rows) >= _SAY_IMAGES or time.monotonic() - said >= _SAY_S or first + len(rows) == asked.last:
            _answer(rows, first, asked, say)
            first, said, rows = first + len(rows), time.monotonic(), []
    return {"images": asked.last - asked.first}


def _logits(session: Session, images: Any, at: int) -> List[List[float]]:
    import numpy

    logits = numpy.asarray(session.infer(session.prepare(images)))
    if logits.ndim != 2 or len(logits) != session.batch:
        raise Refused(f"the network answers {logits.shape}, not ({session.batch}, classes)", "is it a classifier?")
    wrong = numpy.flatnonzero(~numpy.isfinite(logits).all(axis=1))
    if len(wrong):
        raise Refused(
            f"a logit of image {at + int(wrong[0])} is not a finite number",
            "look for an overflow in the network: bpudeploy sensitivity names the layer",
        )
    rows: List[List[float]] = logits.tolist()
    return rows


def _answer(rows: List[List[float]], first: int, asked: Classify, say: Say) -> None:
    if asked.logits:
        say("logits", first=first, values=rows)
        return
    best = [sorted(range(len(row)), key=lambda i: (-row[i], i))[: asked.top] for row in rows]
    scores = [[row[i] for i in order] for row, order in zip(rows, best)]
    say("answers", first=first, classes=best, scores=scores)
