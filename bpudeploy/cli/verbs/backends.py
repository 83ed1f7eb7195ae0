"""backends: the installed compile backends and their tools."""

from __future__ import annotations

import argparse
from argparse import Namespace

from bpudeploy.backends.base import Backend, ToolMissing
from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output, table
from bpudeploy.errors import ExitCode

EXAMPLE = "  bpudeploy backends"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    found = [(b, _tools(b)) for b in map(load_backend, backend_names())]
    rows = [
        (b.name, b.runtime, ", ".join(f"{t} {v}" for t, v in tools.items()) if tools else "not on this machine")
        for b, tools in found
    ]
    document = [{"name": b.name, "runtime": b.runtime, "tools": tools} for b, tools in found]
    out.show(document, table(("backend", "runtime", "tools"), rows))
    return ExitCode.OK


def _tools(backend: Backend) -> dict[str, str] | None:
    """Return a backend's tools with its default options; None if they are not on this machine."""
    try:
        return dict(backend.fingerprint(backend.options_type()))
    except ToolMissing:
        return None
