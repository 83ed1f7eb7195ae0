"""baseline: show or pin the releases that nights are compared with."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output
from bpudeploy.digest import short
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.nightly.baseline import Baseline, BaselineUpdate, baseline_updates, write_baseline
from bpudeploy.nightly.suite import load_suite
from bpudeploy.results.store import open_results

EXAMPLE = """\
  bpudeploy baseline show suite.yaml
  bpudeploy baseline update suite.yaml --why "int16 residuals: 3 % slower, 0.4 points better"
  git diff baselines/

A baseline is a file in the suite's folder baselines/, one field per line: commit it, and review the diff."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("show", "update"))
    add(parser, "suite", "--only")
    parser.add_argument("--why", metavar="TEXT", help="for update, required: the reason, for later readers")
    parser.add_argument("--dry-run", action="store_true", help="for update: show what would change")
    add(parser, "--results", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    if args.what == "update" and not args.why:
        raise UsageError("baseline update needs --why", hint='--why "what is accepted, and in exchange for what"')
    if args.what == "show" and (args.why or args.dry_run):
        raise UsageError("--why and --dry-run are for update", hint="leave them out")
    loaded = load_suite(args.suite, backend_names).only(args.only)
    with open_results(args.results) as results:
        found = baseline_updates(loaded, results, args.why or "")
    if args.what == "show":
        before = {job: pinned for job, (pinned, _) in found.items()}
        document = [one.model_dump(mode="json") if one else {"job": job} for job, one in before.items()]
        out.show(document, (f"  {job:<34} {_pinned(one)}" for job, one in before.items()))
        return ExitCode.OK
    new = [after for _, after in found.values() if after is not None]
    if not new:
        raise UsageError("none of these jobs has been measured", hint=f"`bpudeploy nightly {args.suite}` measures them")
    if not args.dry_run:
        for baseline in new:
            write_baseline(loaded.baselines, baseline)
    changed = [{"job": job, "from": _release(a), "to": _release(b)} for job, (a, b) in found.items()]
    out.show(changed, _changes(found, loaded.baselines, args.dry_run))
    return ExitCode.OK


def _changes(found: Mapping[str, BaselineUpdate], folder: Path, dry_run: bool) -> Iterator[str]:
    for job, (before, after) in found.items():
        if after is None:
            yield f"  {job:<34} not measured: unchanged"
            continue
        yield f"  {job:<34} {_pinned(before)}"
        yield f"  {'':<34} -> {_pinned(after)}"
    yield f"{'would write' if dry_run else 'wrote'} {folder}: review it with git diff, then commit it"


def _release(baseline: Baseline | None) -> str | None:
    return baseline.release if baseline is not None else None


def _pinned(baseline: Baseline | None) -> str:
    if baseline is None:
        return "not pinned"
    sessions = sum(len(board.sessions) for board in baseline.boards.values())
    accuracy = baseline.accuracy
    top1 = f", top-1 {accuracy.top1:.2f} % of {accuracy.images}" if accuracy is not None else ""
    return (
        f"{short(baseline.release)} since {baseline.pinned[:16]}{top1}, {sessions} sessions on "
        f"{len(baseline.boards)} boards: {baseline.why}"
    )
