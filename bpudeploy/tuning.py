"""Choose how tokens are laid out by what the compiler says of each form of each block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from bpudeploy.backends.horizon.fast import fast_profile
from bpudeploy.errors import StageError
from bpudeploy.events import Event, Progress
from bpudeploy.layout.blocks import Block, distinct_blocks
from bpudeploy.layout.lay_out import laid_out
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.layout import LayoutFacts
from bpudeploy.spec.target import Target

ROWS = (1, 2, 4, 8)
"""The rows that are tried; 1 leaves a block as the exact rewrite has it."""
STEP = "tune"


@dataclass(frozen=True)
class Trial:
    """One block in one form. ``us``: the compiler's estimate; None if it failed: ``failure``."""

    block: str
    count: int
    tokens: tuple[int, ...]
    rows: int
    us: float | None
    failure: str = ""


def tune(model: onnx.ModelProto, target: Target, minutes: int, emit: Callable[[Event], None]) -> Iterator[Trial]:
    """Compile each distinct block that has tokens, in each number of rows, all int8 at O3.

    Args:
        model: an exactly rewritten graph.
        minutes: the longest a compilation may take.
    """
    blocks = [block for block in distinct_blocks(model) if block.tokens]
    total, done = len(blocks) * len(ROWS), 0
    for block in blocks:
        seen: set[bytes] = set()
        for rows in ROWS:
            model = in_rows(block, target.layout, rows)
            content = model.SerializeToString()
            if content not in seen:
                seen.add(content)
                yield _compile(block, model, rows, target, minutes)
            done += 1
            emit(Progress(STEP, done, total, "forms"))


def in_rows(block: Block, facts: LayoutFacts, rows: int) -> onnx.ModelProto:
    """Return a block with all of its tokens in ``rows``."""
    return laid_out(block.model, facts.model_copy(update={"tuned": dict.fromkeys(block.tokens, rows)}))


def _compile(block: Block, model: onnx.ModelProto, rows: int, target: Target, minutes: int) -> Trial:
    us, failure = None, ""
    try:
        us = fast_profile(model, target.march, HbMapperOptions(minutes=minutes), lambda event: None).total_us
    except StageError as error:
        failure = str(error).splitlines()[0]
    return Trial(block.name, block.count, tuple(sorted(block.tokens)), rows, us, failure)


def best_rows(trials: list[Trial]) -> Mapping[int, int]:
    """Return the rows of the least time in all, by number of tokens. A form that fails anywhere is not chosen."""
    chosen = {}
    for tokens in sorted({n for trial in trials for n in trial.tokens}):
        times: dict[int, float] = {}
        for name in {trial.block for trial in trials if tokens in trial.tokens}:
            of_block = {trial.rows: trial for trial in trials if trial.block == name}
            for rows in ROWS:
                trial = of_block.get(rows) or of_block[max(r for r in of_block if r < rows)]  # the same graph
                us = float("inf") if trial.us is None else trial.us
                times[rows] = times.get(rows, 0.0) + trial.count * us
        best = min(times, key=lambda rows: (times[rows], rows))
        if times[best] < float("inf"):
            chosen[tokens] = best
    return chosen
