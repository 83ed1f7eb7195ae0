"""The verb boards: list, doctor, facts, trust, shell; reserve and release are in ``reservations``."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import PurePosixPath

from bpudeploy.boards.address import Address
from bpudeploy.cli import render_boards
from bpudeploy.cli.reservations import release, reserve
from bpudeploy.errors import ExitCode, UsageError


def boards(args: Namespace) -> int:
    """Do what ``args.what`` says with a board."""
    verbs = {"list": _list, "doctor": _doctor, "facts": _facts, "trust": _trust, "shell": _shell}
    return (verbs | {"reserve": reserve, "release": release})[args.what](args)


def _list(args: Namespace) -> int:
    from bpudeploy.known import RUNS
    from bpudeploy.results.boards import boards_of

    render_boards.show_list(boards_of(RUNS), args.json)
    return ExitCode.OK


def _doctor(args: Namespace) -> int:
    from bpudeploy.boards.doctor import Severity, doctor
    from bpudeploy.cli.inspect import targets_named

    targets = targets_named([args.target] if args.target else None)
    if len(targets) > 1:
        raise UsageError("a board is of one target", hint="name one --target")
    findings = doctor(Address.parse(args.address), targets[0] if targets else None)
    render_boards.show_findings(args.address, findings, args.json)
    return ExitCode.BOARD if any(f.state is Severity.ERROR for f in findings) else ExitCode.OK


def _facts(args: Namespace) -> int:
    from bpudeploy.boards.facts import read_facts
    from bpudeploy.boards.ssh import open_ssh
    from bpudeploy.spec.target import BoardSpec

    address, spec = Address.parse(args.address), BoardSpec()
    with open_ssh(address, name=args.address, python=spec.python, root=PurePosixPath(spec.root)) as board:
        render_boards.show_facts(args.address, read_facts(board), args.json)
    return ExitCode.OK


def _trust(args: Namespace) -> int:
    from bpudeploy.boards.trust import KeyStatus, fetch_host_key, pin, require_fingerprint

    offered = fetch_host_key(Address.parse(args.address))
    if args.fingerprint is not None:
        require_fingerprint(offered, args.fingerprint)
    if offered.status is not KeyStatus.TRUSTED:
        if args.fingerprint is None:
            render_boards.show_offer(offered)
            if offered.status is KeyStatus.UNKNOWN or args.replace:
                _ask(offered.fingerprint)
        pin(offered, replace=args.replace)
    render_boards.show_trusted(offered, args.json)
    return ExitCode.OK


def _ask(fingerprint: str) -> None:
    """Have a person say yes.

    Raises:
        UsageError: nobody can be asked, or the answer is another.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "nothing is trusted: there is nobody to ask",
            hint="compare the fingerprint with the board's, then add --fingerprint SHA256:...",
        )
    if render_boards.answer() not in ("yes", fingerprint):
        raise UsageError("nothing is trusted: the answer was not yes", hint="answer yes, or paste the fingerprint")


def _shell(args: Namespace) -> int:
    from bpudeploy.boards.shell import shell

    argv = args.command[1:] if args.command[:1] == ["--"] else args.command
    return shell(Address.parse(args.address), argv)
