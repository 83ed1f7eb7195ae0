"""schema: the JSON Schema of recipes, targets, fleets and suites, or the reference page of their fields."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace

from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output
from bpudeploy.errors import ExitCode
from bpudeploy.spec.reference import reference_page
from bpudeploy.spec.schema import fleet_schema, recipe_schema, suite_schema, target_schema

EXAMPLE = """\
  bpudeploy schema > recipe.schema.json
  bpudeploy schema recipe --markdown > recipe.md"""
_SCHEMAS = {"recipe": recipe_schema, "target": target_schema, "fleet": fleet_schema, "suite": suite_schema}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=tuple(_SCHEMAS), default="recipe")
    parser.add_argument("--markdown", action="store_true", help="a readable page of every field instead")
    add(parser, "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    schema = _SCHEMAS[args.what]()
    if args.markdown:
        title = f"{args.what.capitalize()} fields"
        out.text(reference_page(schema, title, f"bpudeploy schema {args.what} --markdown"))
    else:
        out.show(schema, [json.dumps(schema, indent=2)])
    return ExitCode.OK
