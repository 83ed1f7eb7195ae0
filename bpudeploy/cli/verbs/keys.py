"""keys: create the key that signs releases, show it, or have a board trust it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from bpudeploy.cli.arguments import add, target_named
from bpudeploy.cli.output import Output
from bpudeploy.deployment import board_opener
from bpudeploy.effects.trust import TrustMode, trust
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.signing import SigningKey, default_key, load_key, new_key
from bpudeploy.spec.target import Connection

EXAMPLE = """\
  bpudeploy keys new
  bpudeploy keys install --board sunrise@192.168.1.10 --target rdk-x5

A board activates only releases that are signed by a key it trusts; only `keys install` adds one."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("new", "show", "install"), help="create, print, or have a board trust it")
    parser.add_argument("--key", type=Path, metavar="FILE", help="default: ~/.config/bpudeploy/signing_key")
    add(parser, "--board", "--target")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--add", action="store_true", help="for install: in addition to the keys that it trusts")
    how.add_argument("--replace", action="store_true", help="for install: instead of the keys that it trusts")
    add(parser, "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    if args.what != "install" and (args.board or args.target or args.add or args.replace):
        raise UsageError("--board, --target, --add and --replace are for `keys install`", hint="leave them out")
    path: Path = args.key or default_key()
    if args.what == "install":
        _install(load_key(path), args, out)
        return ExitCode.OK
    key = new_key(path) if args.what == "new" else load_key(path)
    public = key.public
    document = {"file": str(key.path), "fingerprint": public.fingerprint, "public": public.text}
    out.show(document, [f"{key.path}: {public.fingerprint}", f"  {public.text}"])
    return ExitCode.OK


def _install(key: SigningKey, args: Namespace, out: Output) -> None:
    if args.target is None:
        raise UsageError("keys install needs --target", hint="`bpudeploy targets` lists them")
    target = target_named(args.target)
    if target.board.connection is Connection.EMBEDDED:
        raise UsageError(
            f"target {target.name} starts its own board, with its own key",
            hint="name a target that uses SSH, like cpu-ssh",
        )
    if not target.board.signed:
        raise UsageError(f"target {target.name} says board.signed: false", hint="its boards verify no signature")
    how = TrustMode.ADD if args.add else TrustMode.REPLACE if args.replace else TrustMode.FIRST
    with board_opener(target, args.board)() as board:
        new = trust(board, key.public, how)
    fingerprint = key.public.fingerprint
    document = {"board": board.name, "fingerprint": fingerprint, "new": new}
    out.show(document, [f"{board.name} {'now trusts' if new else 'already trusted'} {fingerprint}"])
