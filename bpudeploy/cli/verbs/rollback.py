"""rollback: make a board's previous release its current one."""

from __future__ import annotations

import argparse
from argparse import Namespace

from bpudeploy.cli.arguments import add, target_named
from bpudeploy.cli.output import Output
from bpudeploy.deployment import board_opener
from bpudeploy.digest import short
from bpudeploy.effects.rollback import rollback
from bpudeploy.errors import ExitCode, UsageError

EXAMPLE = "  bpudeploy rollback --board sunrise@192.168.1.10 --target rdk-x5"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--board", "--target", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    if args.target is None:
        raise UsageError("rollback needs --target", hint="`bpudeploy targets` lists them")
    target = target_named(args.target)
    with out.live() as live, board_opener(target, args.board)() as board:
        done = rollback(board, live.draw, signed=target.board.signed)
    name = done.name or "an unknown recipe"
    out.show(
        {"board": board.name, "release": done.release, "name": done.name},
        [f"{board.name} is back on release {short(done.release)} of {name}, verified there"],
    )
    return ExitCode.OK
