"""plan: what a run would do, step by step."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence

from bpudeploy.cli.arguments import add, recipes, store
from bpudeploy.cli.output import Output
from bpudeploy.cli.texts import missing_lines
from bpudeploy.errors import ExitCode
from bpudeploy.planning import pipeline
from bpudeploy.planning.preview import PlannedStep, preview
from bpudeploy.planning.products import BINARY
from bpudeploy.spec.load import LoadedRecipe

EXAMPLE = "  bpudeploy plan R.yaml --force quantize"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json", "--force", "--store")
    parser.add_argument("--until", metavar="STEP", help="show the plan up to this stage or step")


def run(args: Namespace, out: Output) -> ExitCode:
    """Show what a run would do, and what it would lack."""
    show(recipes(args, to_look=True), args, out)
    return ExitCode.OK


def show(found: Sequence[LoadedRecipe], args: Namespace, out: Output) -> None:
    """Print the plan of each recipe."""
    for resolved in found:
        chosen = pipeline.plan(resolved).until(args.until)
        steps = preview(chosen, store(args), args.force)
        document = {
            "recipe": resolved.recipe.name,
            "target": resolved.target.name,
            "files": [str(f) for f in resolved.files],
            "steps": [{"step": o.step, "state": o.state, "reason": o.reason, "key": o.key} for o in steps],
            "lacks": missing_lines(resolved),
        }
        out.show(document, _text(resolved, steps, args.until is None))


def _text(resolved: LoadedRecipe, steps: Sequence[PlannedStep], whole: bool) -> Iterator[str]:
    target = resolved.target
    yield f"{resolved.recipe.name} for {target.name} ({target.description})"
    for o in steps:
        reason = "" if o.reason.startswith("after ") else o.reason
        yield f"  {o.step:<22} {o.state:<6} {reason}{o.after or ''}".rstrip()
    yield from (f"  missing: {one}" for one in missing_lines(resolved))
    if not whole:
        return
    if any(o.step == BINARY for o in steps):
        yield f"  {'push':<22} sends the release unless the board has it"
        yield f"  {'benchmark':<22} always measures"
    else:
        yield f"  {BINARY:<22} {target.backend} is not on this machine; `run --until compile` says how to get it"
