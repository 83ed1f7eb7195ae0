"""bench, compare, report: measure releases on a board, hold them against each other, draw what is known."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.cli import render, render_bench
from bpudeploy.deploy import board_opener
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.known import Known, find_release
from bpudeploy.spec.load import load_target
from bpudeploy.spec.recipe import BenchmarkSpec

if TYPE_CHECKING:
    from bpudeploy.boards.base import BoardOpener
    from bpudeploy.measure import Candidate
    from bpudeploy.results.measurement import Measurement
    from bpudeploy.results.store import Results
    from bpudeploy.spec.target import Target


def bench(args: Namespace, store: Path) -> int:
    """Measure a release, or two in turns, on a board; activates nothing there."""
    from bpudeploy.measure import candidate
    from bpudeploy.results.compare import compare
    from bpudeploy.results.store import open_results

    known = [find_release(named) for named in (args.release, args.against) if named is not None]
    method = method_of(known[0], args)
    target, _ = load_target(args.target or known[0].manifest.target, Path())
    _same_kind(known, target.name)
    opener = board_opener(target, args.board)
    candidates = [candidate(one, store) for one in known]
    _same_images(candidates)
    with open_results(args.results) as results:
        measured = measured_on(opener, target, candidates, method, args.json)
        results.append(measured)
    render_bench.show_measurements(measured, args.json)
    if len(measured) == 2:
        against, release = measured[1], measured[0]
        found = compare([against], [release], at_least=args.at_least)
        render_bench.show_comparison(found, args.json)
    return ExitCode.OK


def measured_on(
    opener: BoardOpener, target: Target, candidates: Sequence[Candidate], method: BenchmarkSpec, as_json: bool
) -> tuple[Measurement, ...]:
    """Measure candidates in turns on a board that nobody else has reserved, drawing what happens."""
    from bpudeploy.effects.lost import watched
    from bpudeploy.effects.reserve import refuse_reserved
    from bpudeploy.measure import measure, provenance_of

    with render.Live(as_json) as live, watched(opener) as board:
        refuse_reserved(board)
        return measure(board, candidates, method, provenance_of(target), live.draw)


def method_of(known: Known, args: Namespace) -> BenchmarkSpec:
    """Return the recipe's method, with what the command line changes of it."""
    from pydantic import ValidationError

    changes = {"rounds": args.rounds, "max_seconds": args.max_seconds}
    chosen = {name: value for name, value in changes.items() if value is not None}
    try:
        return BenchmarkSpec.model_validate({**known.built.method.model_dump(), **chosen})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}", hint="see `bpudeploy bench --help`"
        ) from error


def _same_kind(known: Sequence[Known], target: str) -> None:
    wrong = [one for one in known if one.manifest.target != target]
    if wrong:
        raise UsageError(
            f"{wrong[0].manifest.name} was built for {wrong[0].manifest.target}, not for {target}",
            hint="a binary runs on the kind of board that it was compiled for",
        )


def _same_images(candidates: Sequence[Candidate]) -> None:
    if len({one.evaluation.digest for one in candidates}) > 1:
        raise UsageError(
            "the two were built with different evaluation sets, so their answers are not paired",
            hint="build both with the same `dataset:` and `preprocess:`",
        )


def compare(args: Namespace) -> int:
    """Hold B against A, of what is in the results store; exit 4 when it is worse."""
    from bpudeploy.results.compare import compare as hold
    from bpudeploy.results.store import open_results
    from bpudeploy.results.summary import Verdict

    with open_results(args.results) as results:
        a, b = (_measured(results, named, args.board) for named in (args.a, args.b))
    board = _board_of_both(a, b)
    a, b = ([m for m in side if m.board_id == board] for side in (a, b))
    found = hold(a, b, at_least=args.at_least)
    render_bench.show_comparison(found, args.json)
    return ExitCode.CHECK if found.verdict is Verdict.WORSE else ExitCode.OK


def _measured(results: Results, named: str, board: str | None) -> list[Measurement]:
    """Return the measurements of a release, newest first: by digest, else of the latest of a recipe's name."""
    from bpudeploy.results.measurement import Provenance
    from bpudeploy.results.store import Query

    name, _, target = named.partition("@")
    newest = results.find(Query(recipe=name, target=target or None, board=board, limit=1, with_samples=False))
    release = newest[0].subject.release if newest else named
    found = results.find(Query(release=release, board=board, with_samples=True))
    if not found:
        on = f" on {board}" if board else ""
        raise UsageError(
            f"nothing measured of {named!r}{on}", hint="`bpudeploy bench RELEASE --board ...` measures one"
        )
    measured = [m for m in found if m.provenance is Provenance.MEASURED]
    return measured or [m for m in found if m.provenance is found[0].provenance]


def _board_of_both(a: Sequence[Measurement], b: Sequence[Measurement]) -> str:
    shared = {m.board_id: m.board for m in a if m.board_id in {other.board_id for other in b}}
    if len(shared) == 1:
        return next(iter(shared))
    if shared:
        raise UsageError(
            f"both were measured on {len(shared)} boards: {', '.join(sorted(shared.values()))}",
            hint="name one with --board",
        )
    raise UsageError(
        "the two were never measured on the same board",
        hint="`bpudeploy bench A --against B --board ...` measures both on one, in turns",
    )


def history(args: Namespace) -> int:
    """Draw all that was measured: a page, or rows of CSV, or JSON."""
    from bpudeploy.results.history_page import to_csv, write_history
    from bpudeploy.results.store import Query, open_results

    wanted = Query(recipe=args.recipe, target=args.target, board=args.board, limit=args.last, with_samples=not args.csv)
    with open_results(args.results) as results:
        found = results.find(wanted)
    if not found:
        raise UsageError("nothing of that kind was measured yet", hint="`bpudeploy run RECIPE` measures")
    if args.csv:
        render.show_text(to_csv(found))
        return ExitCode.OK
    if args.json:
        for m in found:
            render.show_text(m.model_dump_json() + "\n")
        return ExitCode.OK
    out = args.out or Path("results.html")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        write_history(found, beside)
        beside.replace(out)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", hint="name another --out") from error
    render_bench.show_history(found, out)
    return ExitCode.OK
