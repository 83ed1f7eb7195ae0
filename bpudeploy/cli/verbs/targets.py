"""targets: the boards that a recipe can name, built in and from ./targets."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output, table
from bpudeploy.errors import ExitCode
from bpudeploy.spec.load import list_targets, load_target

EXAMPLE = "  bpudeploy targets"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    found = [load_target(name, Path())[0] for name in sorted(list_targets(Path()))]
    installed = backend_names()
    rows = [
        (t.name, t.march, t.backend + ("" if t.backend in installed else " (not installed)"), t.description)
        for t in found
    ]
    out.show([t.model_dump(mode="json") for t in found], table(("target", "march", "backend", "board"), rows))
    return ExitCode.OK
