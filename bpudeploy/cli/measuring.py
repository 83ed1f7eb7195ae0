"""What bench, compare and bisect share: the method, the measurement on a board, the text of a comparison."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from bpudeploy.boardjob import on_board
from bpudeploy.boards.base import BoardOpener
from bpudeploy.cli.output import Output, table
from bpudeploy.digest import short
from bpudeploy.errors import UsageError
from bpudeploy.measure import Candidate
from bpudeploy.releases import BuiltRelease
from bpudeploy.results.compare import Comparison, LatencyChange
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.summary import Verdict
from bpudeploy.spec.recipe import BenchmarkSpec


def method_of(release: BuiltRelease, args: Namespace) -> BenchmarkSpec:
    """Return the recipe's method, with what --rounds and --max-seconds change.

    Raises:
        UsageError: an option is out of range.
    """
    changes = {"rounds": args.rounds, "max_seconds": args.max_seconds}
    chosen = {name: value for name, value in changes.items() if value is not None}
    try:
        return BenchmarkSpec.model_validate({**release.built.method.model_dump(), **chosen})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}", hint="see `bpudeploy bench --help`"
        ) from error


def measured_on(
    opener: BoardOpener, candidates: Sequence[Candidate], method: BenchmarkSpec, out: Output
) -> tuple[Measurement, ...]:
    """Measure candidates interleaved on a board that nobody else has reserved."""
    with out.live() as live, on_board(opener, live.draw) as job:
        return job.measure(candidates, method)


def comparison_text(found: Comparison) -> Iterator[str]:
    """Yield how B compares with A."""
    yield f"B {short(found.b)} against A {short(found.a)} on {found.board}, {found.provenance}, {found.design}"
    rows = [_row(change) for change in (*found.latency, *found.throughput)]
    yield from table(("", ">A, ms", ">B, ms", ">B to A", "95 % interval", "verdict"), rows)
    if found.throughput:
        yield "  streams: ms per image, 1000 / (images per second)"
    if found.superiority is not None:
        yield f"  a frame of B is faster than a frame of A in {100 * found.superiority:.0f} % of all pairs"
    if found.accuracy is not None:
        d = found.accuracy
        c = d.change
        change = f"{c.value:+.1f} points ({c.low:+.1f} to {c.high:+.1f}), p = {d.p_value:.2g}"
        yield f"  top-1, B - A: {change}; {d.verdict}, minimum detectable difference {d.detectable:.1f}"
    yield from (f"  note: {why}" for why in found.because)
    same = found.verdict is Verdict.CANNOT_TELL
    verdict = "not distinguishable from A" if same else found.verdict
    yield f"  verdict (p50 and top-1; latency from {found.at_least:g} %): B is {verdict}"


def _row(change: LatencyChange) -> tuple[str, ...]:
    i = change.interval
    interval = "not known" if i is None else f"{i.low:+.1f} to {i.high:+.1f} %"
    ratio = f"{change.percent:+.1f} %"
    return change.what, f"{change.a_ms:.2f}", f"{change.b_ms:.2f}", ratio, interval, str(change.verdict)
