"""compare: is B faster or slower, more or less accurate than A, by the stored measurements?"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence

from bpudeploy.cli.arguments import add
from bpudeploy.cli.measuring import comparison_text
from bpudeploy.cli.output import Output
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.compare import compare
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.store import Query, Results, open_results
from bpudeploy.results.summary import Verdict

EXAMPLE = """\
  bpudeploy compare 3fa9c1d2 quickstart

Uses the results store, on one board. Exit code 4: B is worse. Measured, simulated and predicted figures are
never compared with each other. Releases that were not measured interleaved need three sessions each."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a recipe's name (its latest), NAME@TARGET, or digits of a digest")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--board", metavar="BOARD", help="which board, if both were measured on several")
    add(parser, "--at-least", "--results", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    """Compare B with A; exit 4 when it is worse."""
    with open_results(args.results) as results:
        a, b = (_measured(results, named, args.board) for named in (args.a, args.b))
    board = _board_of_both(a, b)
    a, b = ([m for m in side if m.board_id == board] for side in (a, b))
    found = compare(a, b, at_least=args.at_least)
    out.show({**found.model_dump(mode="json"), "verdict": found.verdict}, comparison_text(found))
    return ExitCode.CHECK if found.verdict is Verdict.WORSE else ExitCode.OK


def _measured(results: Results, named: str, board: str | None) -> list[Measurement]:
    """Return the measurements of a release, newest first: by digest, else of the latest of a recipe's name."""
    name, _, target = named.partition("@")
    newest = results.find(Query(recipe=name, target=target or None, board=board, limit=1, with_samples=False))
    release = newest[0].subject.release if newest else named
    found = results.find(Query(release=release, board=board, with_samples=True))
    if not found:
        on = f" on {board}" if board else ""
        raise UsageError(
            f"there are no measurements of {named!r}{on}", hint="`bpudeploy bench RELEASE --board ...` measures one"
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
            hint="choose one with --board",
        )
    raise UsageError(
        "the two were never measured on the same board",
        hint="`bpudeploy bench A --against B --board ...` measures both on one board, interleaved",
    )
