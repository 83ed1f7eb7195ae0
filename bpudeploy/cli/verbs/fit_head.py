"""fit-head: fit a linear classifier on a backbone, with every image that is not in the evaluation set."""

from __future__ import annotations

import argparse
import shutil
from argparse import Namespace
from pathlib import Path

from bpudeploy.cli.arguments import add, recipes, store
from bpudeploy.cli.output import Output
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import replacing
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import Products
from bpudeploy.run.runner import run as run_plan

EXAMPLE = "  bpudeploy fit-head recipes/quickstart-head.yaml"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json")
    parser.add_argument("--l2", type=float, default=10.0, help="weight of the penalty on the weights (default: 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the recipe's name with .safetensors")
    add(parser, "--store")


def run(args: Namespace, out: Output) -> ExitCode:
    """Fit a head and write it beside the recipe."""
    if args.l2 < 0:
        raise UsageError(f"--l2 {args.l2:g} is below 0", hint="give a weight of 0 or more")
    for resolved in recipes(args):
        with out.live() as live:
            result = run_plan(pipeline.plan_head(resolved, args.l2), store(args), live.draw)
        head = Products(result.artifacts).head
        path = args.out or args.recipe.with_name(f"{resolved.recipe.name}.safetensors")
        try:
            with replacing(path) as beside:
                shutil.copyfile(head.path, beside)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}", hint="name another --out") from error
        out.show({"file": str(path), "sha256": head.digest}, [f"{path}: sha256 {head.digest}"])
    return ExitCode.OK
