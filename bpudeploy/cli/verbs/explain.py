"""explain: why a step is a hit or a miss, with every part of its key."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Iterator, Sequence

from bpudeploy.cli.arguments import add, recipes, store
from bpudeploy.cli.output import Output
from bpudeploy.errors import ExitCode
from bpudeploy.planning import pipeline
from bpudeploy.planning.preview import PlannedStep, preview

EXAMPLE = "  bpudeploy explain R.yaml quantize"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json")
    parser.add_argument("step", help="a stage (quantize) or a step (quantize/scores)")
    add(parser, "--store")


def run(args: Namespace, out: Output) -> ExitCode:
    for resolved in recipes(args):
        whole = pipeline.plan(resolved)
        wanted = whole.select([args.step])
        found = [o for o in preview(whole, store(args)) if o.step in wanted]
        document = [
            {"step": o.step, "state": o.state, "reason": o.reason, "key": o.key, "parts": o.parts} for o in found
        ]
        out.show(document, _text(found))
    return ExitCode.OK


def _text(found: Sequence[PlannedStep]) -> Iterator[str]:
    for o in found:
        if o.parts is None:
            yield f"{o.step}: {o.reason}" + (", its key is known after that step has run" if o.after else "")
            continue
        yield f"{o.step}: {o.state}, {o.reason}"
        yield f"  key {o.key}"
        for name, value in o.parts.items():
            yield f"  {name}: {json.dumps(value) if isinstance(value, dict) else value}"
