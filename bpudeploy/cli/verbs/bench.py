"""bench: measure a release on a board, or compare two; nothing is activated there."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence

from bpudeploy.cli.arguments import add, store, target_named
from bpudeploy.cli.measuring import comparison_text, measured_on, method_of
from bpudeploy.cli.output import Output
from bpudeploy.cli.texts import measurement_text
from bpudeploy.deployment import board_opener
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.measure import Candidate, candidate
from bpudeploy.releases import BuiltRelease, find_release
from bpudeploy.results.compare import compare
from bpudeploy.results.store import open_results

EXAMPLE = """\
  bpudeploy bench quickstart
  bpudeploy bench resnet18@rdk-x5 --board sunrise@192.168.1.10
  bpudeploy bench 3fa9c1d2 --against quickstart --board sunrise@192.168.1.10

A release is a recipe's name (its latest), NAME@TARGET, the first digits of a digest, or a run directory.
The board's clocks are locked at their maximum if the account may do that, and always restored."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("release", metavar="RELEASE", help="a release that `bpudeploy run` built here")
    parser.add_argument("--against", metavar="RELEASE", help="compare with this release, measured interleaved")
    add(parser, "--board", "--target")
    parser.add_argument("--rounds", type=int, metavar="N", help="minimum number of rounds (default: the recipe's)")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="start no further round after this time")
    add(parser, "--at-least", "--store", "--results", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    found = [find_release(named) for named in (args.release, args.against) if named is not None]
    method = method_of(found[0], args)
    target = target_named(args.target or found[0].manifest.target)
    _require_target(found, target.name)
    opener = board_opener(target, args.board)
    candidates = [candidate(one, store(args)) for one in found]
    _require_same_images(candidates)
    with open_results(args.results) as results:
        measured = measured_on(opener, candidates, method, out)
        results.append(measured)
    for m in measured:
        out.show(m, measurement_text(m))
    if len(measured) == 2:
        comparison = compare([measured[1]], [measured[0]], at_least=args.at_least)
        out.show({**comparison.model_dump(mode="json"), "verdict": comparison.verdict}, comparison_text(comparison))
    return ExitCode.OK


def _require_target(found: Sequence[BuiltRelease], target: str) -> None:
    wrong = [one for one in found if one.manifest.target != target]
    if wrong:
        raise UsageError(
            f"{wrong[0].manifest.name} was built for {wrong[0].manifest.target}, not for {target}",
            hint="a binary runs only on the kind of board that it was compiled for",
        )


def _require_same_images(candidates: Sequence[Candidate]) -> None:
    if len({one.evaluation.digest for one in candidates}) > 1:
        raise UsageError(
            "the two releases were built with different evaluation sets, so their answers cannot be paired",
            hint="build both with the same `dataset:` and `preprocess:`",
        )
