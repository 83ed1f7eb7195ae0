"""report: all measurements as a page, JSON or CSV; or one run or night again."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from pydantic import ValidationError

from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output
from bpudeploy.cli.texts import history_text, summary_text
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import replacing
from bpudeploy.results.history_page import to_csv, write_history
from bpudeploy.results.report import write_report
from bpudeploy.results.store import Query, open_results
from bpudeploy.results.summary import Summary

EXAMPLE = """\
  bpudeploy report --recipe quickstart --out results.html
  bpudeploy report --csv > results.csv
  bpudeploy report .bpudeploy/runs/2026-11-24T..."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN_DIRECTORY", help="write the report of this run or night again"
    )
    parser.add_argument("--recipe", metavar="NAME")
    parser.add_argument("--target", metavar="NAME")
    parser.add_argument("--board", metavar="BOARD")
    parser.add_argument("--last", type=int, metavar="N", help="only the newest N measurements")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results.html")
    parser.add_argument("--csv", action="store_true", help="CSV on standard output, no page")
    add(parser, "--results", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    if args.run is None:
        return _history(args, out)
    if (args.run / "night.json").is_file():
        from bpudeploy.cli.verbs import nightly  # it imports NumPy

        return nightly.report(args.run, args, out)
    return _run_again(args.run, out)


def _run_again(directory: Path, out: Output) -> ExitCode:
    path = directory / "summary.json"
    try:
        summary = Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="name the directory of a finished run"
        ) from error
    except ValidationError as error:
        raise UsageError(f"{path} is not a summary of this version: {error}", hint="run the recipe again") from error
    write_report(summary, directory / "report.html")
    out.show(summary, summary_text(summary))
    return ExitCode.OK if summary.holds else ExitCode.CHECK


def _history(args: Namespace, out: Output) -> ExitCode:
    wanted = Query(recipe=args.recipe, target=args.target, board=args.board, limit=args.last, with_samples=not args.csv)
    with open_results(args.results) as results:
        found = results.find(wanted)
    if not found:
        raise UsageError("there are no such measurements yet", hint="`bpudeploy run RECIPE` measures")
    if args.csv:
        out.text(to_csv(found))
        return ExitCode.OK
    if args.json:
        for m in found:
            out.show(m, ())
        return ExitCode.OK
    page = args.out or Path("results.html")
    try:
        with replacing(page) as beside:
            write_history(found, beside)
    except OSError as error:
        raise UsageError(f"cannot write {page}: {error.strerror}", hint="name another --out") from error
    out.show(None, [*history_text(found), f"{page} has the distributions, accuracy against latency, and layers"])
    return ExitCode.OK
