"""The verb toolchain: install, show or remove the vendor's compiler for X3, X5 and Ultra."""

from __future__ import annotations

from argparse import Namespace

from bpudeploy.cli import render, render_toolchain
from bpudeploy.errors import ExitCode, UsageError


def toolchain(args: Namespace) -> int:
    """Install the vendor's compiler, show what is installed, or remove it."""
    from bpudeploy.backends.horizon.toolchain.installed import folder, installed, lock_digest

    if args.python is not None and args.what != "install":
        raise UsageError("--python is for `toolchain install`", hint="leave it out")
    if args.what == "show":
        render_toolchain.show(installed(), folder(), lock_digest(), args.json)
        return ExitCode.OK
    from bpudeploy.backends.horizon.toolchain.install import install, remove

    if args.what == "remove":
        render_toolchain.show_removed(remove(), folder(), args.json)
        return ExitCode.OK
    with render.Live(args.json) as live:
        made, new = install(args.python, live.draw)
    render_toolchain.show_installed(made, new, args.json)
    return ExitCode.OK
