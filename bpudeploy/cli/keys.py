"""keys and rollback: what is done to a board beside a run of a recipe."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from bpudeploy.cli import render_keys
from bpudeploy.cli.inspect import target_named
from bpudeploy.cli.render import Live
from bpudeploy.deploy import board_opener
from bpudeploy.effects.rollback import rollback as roll_back
from bpudeploy.effects.trust import Trust, trust
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.signing import SigningKey, default_key, load_key, new_key
from bpudeploy.spec.target import Connection, Target


def keys(args: Namespace) -> int:
    """Make a signing key, show it, or have a board trust it."""
    if args.what != "install" and (args.board or args.target or args.add or args.replace):
        raise UsageError("--board, --target, --add and --replace are for `keys install`", hint="leave them out")
    path: Path = args.key or default_key()
    if args.what == "new":
        _show(new_key(path), args)
    elif args.what == "show":
        _show(load_key(path), args)
    else:
        _install(load_key(path), args)
    return ExitCode.OK


def rollback(args: Namespace) -> int:
    """Make a board's previous release its current one."""
    target = _target(args, "rollback")
    with Live(args.json) as live, board_opener(target, args.board)() as board:
        done = roll_back(board, live.draw, signed=target.board.signed)
    render_keys.show_rolled_back(board.name, done, args.json)
    return ExitCode.OK


def _install(key: SigningKey, args: Namespace) -> None:
    target = _target(args, "keys install")
    if target.board.connection is Connection.EMBEDDED:
        raise UsageError(
            f"target {target.name} starts its own board, with a key of its own",
            hint="name a target that is reached over SSH, like cpu-ssh",
        )
    if not target.board.signed:
        raise UsageError(f"target {target.name} says board.signed: false", hint="its boards verify no signature")
    how = Trust.ADD if args.add else Trust.REPLACE if args.replace else Trust.FIRST
    with board_opener(target, args.board)() as board:
        new = trust(board, key.public, how)
    render_keys.show_trusted(board.name, key.public, new, args.json)


def _target(args: Namespace, verb: str) -> Target:
    if args.target is None:
        raise UsageError(
            f"{verb} needs the kind of board: where are releases on it?",
            hint="add --target NAME; `bpudeploy targets` lists them",
        )
    return target_named(args.target)


def _show(key: SigningKey, args: Namespace) -> None:
    render_keys.show_key(key.path, key.public, args.json)
