"""pin: fetch remote sources and print the digests that a recipe should pin."""

from __future__ import annotations

import argparse
import tempfile
from argparse import Namespace
from pathlib import Path

from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output
from bpudeploy.digest import digest_file
from bpudeploy.errors import ExitCode
from bpudeploy.spec.load import remote_sources
from bpudeploy.stage import StepContext
from bpudeploy.stages.download import DownloadOptions, download

EXAMPLE = "  bpudeploy pin R.yaml"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    """Fetch each remote source once and print its digest."""
    for field, source in remote_sources(args.recipe, args.sets):
        with tempfile.TemporaryDirectory() as folder, out.live() as live:
            path = download(StepContext(Path(folder), live.draw), DownloadOptions(source, None), field)
            digest = digest_file(path)
        out.show({"field": field, "sha256": digest}, [f"{field}.sha256: {digest}"])
    return ExitCode.OK
