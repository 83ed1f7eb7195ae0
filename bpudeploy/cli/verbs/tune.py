"""tune: how a network's tokens are laid out fastest, by the compiler's estimate of each of its blocks."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby

from bpudeploy.cli.arguments import add_network, require_image_size, targets_named
from bpudeploy.cli.output import Output, table
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.inspection import load_models
from bpudeploy.spec.target import Target
from bpudeploy.tuning import Trial, best_rows, tune

EXAMPLE = """\
  bpudeploy tune deit_tiny_patch16_224 --target rdk-x5

It compiles each distinct block of the network alone, all int8, and prints what to put into the target's file. Needs
`bpudeploy toolchain install`. Every time is the compiler's estimate, not a measurement."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--minutes", type=int, default=10, metavar="N", help="the longest one compilation may take (10)"
    )


def run(args: Namespace, out: Output) -> ExitCode:
    """Compile the forms of a network's blocks, and show the best.

    Raises:
        UsageError: the target has no layout, or the network has no tokens.
    """
    require_image_size(args.image_size)
    ((subject, own), *_) = load_models(args.model, original=False, image_size=args.image_size)
    targets = targets_named(args.target) or ((own,) if own is not None else ())
    if len(targets) != 1 or not targets[0].layout.changes_graphs:
        raise UsageError("name one target with a `layout:`", hint="--target rdk-x5 or --target rdk-ultra")
    (target,) = targets
    with out.live() as live:
        trials = list(tune(subject.model, target, args.minutes, live.draw))
    if not trials:
        raise UsageError(f"{subject.name} has no tokens: its layout is given", hint="tune a network with attention")
    chosen = dict(best_rows(trials))
    document = {"target": target.name, "trials": [asdict(trial) for trial in trials], "tuned": chosen}
    out.show(document, _text(subject.name, target, trials, chosen))
    return ExitCode.OK


def _text(name: str, target: Target, trials: list[Trial], chosen: dict[int, int]) -> Iterator[str]:
    yield f"{name} on {target.name}: blocks by the compiler's estimate, all int8, in each number of rows"
    rows = []
    for block, found in groupby(trials, key=lambda trial: trial.block):
        forms = list(found)
        least = min((trial.us for trial in forms if trial.us is not None), default=None)
        for trial in forms:
            us = trial.failure or f"{trial.us:.1f}{' *' if trial.us == least else '  '}"
            rows.append((us, trial.rows, trial.count, ", ".join(map(str, trial.tokens)), block))
    yield from table((">us", ">rows", ">times", "tokens", "block"), rows)
    yield "  *: the least; rows that give the same graph are left out"
    facts = target.layout.model_dump(exclude_defaults=True) | {"tuned": target.layout.tuned | chosen}
    yield f"  in the target's file: layout: {_flow(facts)}"


def _flow(value: object) -> str:
    """Return numbers and mappings as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    return str(value)
