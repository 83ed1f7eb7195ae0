"""boards reserve, boards release: a board for oneself, for a while."""

from __future__ import annotations

import re
from argparse import Namespace
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bpudeploy.boards.address import Address
from bpudeploy.cli import render, render_boards
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.spec.load import load_target
from bpudeploy.spec.target import BoardSpec

if TYPE_CHECKING:
    from bpudeploy.boards.ssh import SshBoard

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def reserve(args: Namespace) -> int:
    """Reserve a board, or make what one has of it longer."""
    from bpudeploy.effects.reserve import reserve as hold

    seconds, wait_s = _seconds(args.for_, "--for"), _seconds(args.wait, "--wait") if args.wait else 0.0
    with _open(args) as board, render.Live(args.json) as live:
        held = hold(board, seconds=seconds, why=args.why, wait_s=wait_s, emit=live.draw)
    render_boards.show_reservation(args.address, held, args.json)
    return ExitCode.OK


def release(args: Namespace) -> int:
    """Give a board back."""
    from bpudeploy.effects.reserve import release as give_back

    with _open(args) as board:
        was = give_back(board, force=args.force)
    render_boards.show_released(args.address, was, args.json)
    return ExitCode.OK


def _open(args: Namespace) -> AbstractContextManager[SshBoard]:
    from bpudeploy.boards.ssh import open_ssh

    spec = load_target(args.target, Path())[0].board if args.target is not None else BoardSpec()
    root = PurePosixPath(args.root or spec.root)
    return open_ssh(Address.parse(args.address), name=args.address, python=spec.python, root=root)


def _seconds(text: str, option: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise UsageError(f"{option} {text!r} is no time", hint="such as 45m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]
