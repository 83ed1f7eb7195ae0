"""The arguments of nightly, baseline and bisect."""

from __future__ import annotations

import argparse
from pathlib import Path

from bpudeploy.cli.arguments import executor, on_a_board, results, store, verb_of

METRICS = ("top1", "p50", "p99", "size", "memory")


def nightly(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add nightly, baseline and bisect."""
    _nightly(verbs)
    _baseline(verbs)
    _bisect(verbs)


def _suite(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("suite", type=Path, metavar="SUITE", help="a suite file (.yaml)")


def _nightly(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    night = verb_of(
        verbs,
        "nightly",
        "measure a suite of recipes on its boards and say what got worse",
        "bpudeploy nightly suite.yaml --dry-run\n"
        "  bpudeploy nightly suite.yaml\n"
        "  bpudeploy nightly suite.yaml --only resnet18@rdk-x5 --executor dask:4\n\n"
        "Exit code: 0 nothing got worse, 4 something did, 3 a build failed, 5 no board could measure a job.\n"
        "Report, JUnit, Markdown and metrics lie in .bpudeploy/nights/latest.",
    )
    _suite(night)
    night.add_argument("--dry-run", action="store_true", help="say what it would do; build nothing, ask no board")
    night.add_argument("--only", action="append", default=[], metavar="JOB", help="RECIPE@TARGET; may be repeated")
    night.add_argument("--jobs", type=int, metavar="N", help="steps at once while building (default: one a core)")
    night.add_argument("--memory", type=float, metavar="GIB", help="what they may need in all")
    executor(night)
    store(night)
    results(night)


def _baseline(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    baseline = verb_of(
        verbs,
        "baseline",
        "the releases that nights are held against: show them, or pin what was measured last",
        "bpudeploy baseline show suite.yaml\n"
        '  bpudeploy baseline update suite.yaml --why "int16 residuals: 3 % slower, 0.4 points better"\n'
        "  git diff baselines/\n\n"
        "A baseline is a file in the suite's folder baselines/, a field a line: commit it, and review it as a diff.",
    )
    baseline.add_argument("what", choices=("show", "update"))
    _suite(baseline)
    baseline.add_argument("--only", action="append", default=[], metavar="JOB", help="RECIPE@TARGET; may be repeated")
    baseline.add_argument("--why", metavar="TEXT", help="for update: told to who reads the file later; required")
    baseline.add_argument("--dry-run", action="store_true", help="for update: say what would change")
    results(baseline)


def _bisect(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bisect = verb_of(
        verbs,
        "bisect",
        "which commit of a recipe, or which release, made a metric worse",
        "bpudeploy bisect recipes/vit.yaml --good v1.2 --bad main --metric p50 --board sunrise@192.168.1.10\n"
        "  bpudeploy bisect vit@rdk-x5 --good 3fa9c1d2 --bad 77aa01bc --metric top1 --board B\n\n"
        "Each candidate is measured in turns with the good one; it is bad when it lost half of what the bad one did.\n"
        "Commits are checked out beside yours: your checkout is not touched.",
    )
    bisect.add_argument(
        "what", metavar="RECIPE|NAME@TARGET", help="a recipe file in git, or releases that were built here"
    )
    bisect.add_argument("--good", required=True, metavar="REV", help="a commit, or digits of a release's digest")
    bisect.add_argument("--bad", required=True, metavar="REV")
    bisect.add_argument("--metric", choices=METRICS, default="p50")
    bisect.add_argument("--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE")
    on_a_board(bisect)
    bisect.add_argument("--rounds", type=int, metavar="N", help="of each measurement, at least")
    bisect.add_argument("--max-seconds", type=float, metavar="S", help="of each measurement, at most")
    store(bisect)
