"""validate: check recipes without running them."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output
from bpudeploy.cli.texts import missing_lines
from bpudeploy.errors import ExitCode
from bpudeploy.spec.load import load_recipe

EXAMPLE = "  bpudeploy validate recipes/*.yaml"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    add(parser, "--set", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    """Load every recipe; the first that is wrong raises with all of its errors."""
    for path in args.recipes:
        for resolved in load_recipe(path, args.sets, backend_names, to_look=True):
            missing = missing_lines(resolved)
            document = {"file": str(path), "recipe": resolved.recipe.model_dump(mode="json"), "lacks": missing}
            valid = f"{path}: {resolved.recipe.name} for {resolved.target.name} is valid"
            out.show(document, [valid, *(f"  missing: {one}" for one in missing)])
    return ExitCode.OK
