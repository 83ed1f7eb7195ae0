"""schema: the JSON Schema of recipes, targets, fleets and suites."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace

from bpudeploy.cli.arguments import add_json
from bpudeploy.cli.output import Output
from bpudeploy.errors import ExitCode
from bpudeploy.spec.schema import fleet_schema, recipe_schema, suite_schema, target_schema

EXAMPLE = "  bpudeploy schema > recipe.schema.json"
_SCHEMAS = {"recipe": recipe_schema, "target": target_schema, "fleet": fleet_schema, "suite": suite_schema}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("what", nargs="?", choices=tuple(_SCHEMAS), default="recipe")
    add_json(parser)


def run(args: Namespace, out: Output) -> ExitCode:
    """Print a JSON Schema."""
    schema = _SCHEMAS[args.what]()
    out.show(schema, [json.dumps(schema, indent=2)])
    return ExitCode.OK
