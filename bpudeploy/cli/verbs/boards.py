"""boards: check a board, trust its host key, open a shell, reserve it."""

from __future__ import annotations

import argparse
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict

from bpudeploy.boardjob import opener_of
from bpudeploy.boards.address import Address
from bpudeploy.boards.base import Board
from bpudeploy.boards.doctor import BoardFinding, Severity, doctor
from bpudeploy.boards.facts import Facts, read_facts
from bpudeploy.boards.shell import shell
from bpudeploy.boards.trust import KeyStatus, OfferedKey, fetch_host_key, pin, require_fingerprint
from bpudeploy.cli.arguments import add, add_verb, target_named
from bpudeploy.cli.output import Output, table, wrap
from bpudeploy.digest import short
from bpudeploy.effects.reserve import release, reserve
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.releases import RUNS
from bpudeploy.results.boards import boards_of
from bpudeploy.spec.target import BoardSpec

EXAMPLE = """\
  bpudeploy boards doctor sunrise@192.168.1.10 --target rdk-x5
  bpudeploy boards trust rdk-1
  bpudeploy boards reserve rdk-1 --for 30m --why "bring-up" --wait 1h"""
_WHAT = {
    "list": ("list the boards that runs in this folder have used", "bpudeploy boards list"),
    "doctor": (
        "check everything that a deployment needs, and say how to fix what is missing",
        "bpudeploy boards doctor sunrise@192.168.1.10 --target rdk-x5\n\nReads only: it changes nothing on the board.",
    ),
    "facts": ("show hardware, system and runtimes of a board", "bpudeploy boards facts rdk-1 --json"),
    "trust": (
        "pin a board's host key in known_hosts, after you have compared its fingerprint",
        "bpudeploy boards trust rdk-1\n"
        "  bpudeploy boards trust rdk-1 --fingerprint SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
    ),
    "shell": (
        "open a shell on the board, or run one command, with the settings that push uses",
        "bpudeploy boards shell rdk-1\n"
        "  bpudeploy boards shell rdk-1 -- sh -c 'df -h | grep userdata'\n\n"
        "The exit code is the command's. The words after -- are not seen by a shell there; a pipe needs sh -c.",
    ),
    "reserve": (
        "reserve a board: pushes and rollouts by others are refused",
        'bpudeploy boards reserve sunrise@192.168.1.10 --target rdk-x5 --for 2h --why "thermal test"\n'
        '  bpudeploy boards reserve rdk-1 --for 30m --why "bring-up" --wait 1h',
    ),
    "release": ("give a reserved board back", "bpudeploy boards release rdk-1"),
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    verbs = {}
    for name, (summary, example) in _WHAT.items():
        verbs[name] = add_verb(what, name, summary, f"  {example}")
        add(verbs[name], "--json")
        if name != "list":
            verbs[name].add_argument("address", metavar="[USER@]HOST[:PORT]", help="HOST may be a ~/.ssh/config alias")
    verbs["doctor"].add_argument("--target", metavar="NAME", help="the expected kind: its chip, runtime and folder")
    trust = verbs["trust"]
    trust.add_argument("--fingerprint", metavar="SHA256:...", help="trust this key without asking, refuse any other")
    trust.add_argument("--replace", action="store_true", help="remove the key that was known before")
    verbs["shell"].add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="default: a login shell"
    )
    reserved = verbs["reserve"]
    reserved.add_argument("--for", required=True, dest="for_", metavar="TIME", help="from now, such as 45m, 2h or 1d")
    reserved.add_argument("--why", required=True, metavar="TEXT", help="shown to others who want the board")
    reserved.add_argument("--wait", metavar="TIME", help="how long to queue if somebody else has it")
    verbs["release"].add_argument("--force", action="store_true", help="even if it is somebody else's reservation")
    for one in (reserved, verbs["release"]):
        one.add_argument("--target", metavar="NAME", help="the kind of board, which defines where releases are")
        one.add_argument("--root", metavar="FOLDER", help="where releases are, if not where the target says")


def run(args: Namespace, out: Output) -> int:
    """Do what ``args.what`` says with a board; a shell's exit code is returned as it is."""
    functions = {"list": _list, "doctor": _doctor, "facts": _facts, "trust": _trust}
    functions |= {"reserve": _reserve, "release": _release}
    if args.what == "shell":
        return _shell(args)
    return functions[args.what](args, out)


def _list(args: Namespace, out: Output) -> ExitCode:
    found = boards_of(RUNS)
    nothing = ["no run in this folder has used a board over SSH yet: `bpudeploy run R.yaml --board USER@HOST`"]
    rows = [(one.address, one.target, one.started[:16], one.recipe, short(one.release)) for one in found]
    text = [*table(("board", "target", "last run", "recipe", "release"), rows), "  from .bpudeploy/runs"]
    out.show([one.model_dump(mode="json") for one in found], text if found else nothing)
    return ExitCode.OK


def _doctor(args: Namespace, out: Output) -> ExitCode:
    if args.target is not None and "," in args.target:
        raise UsageError("a board has one target", hint="name one --target")
    findings = doctor(Address.parse(args.address), target_named(args.target) if args.target else None)
    document = {"board": args.address, "findings": [asdict(one) for one in findings]}
    out.show(document, _findings(args.address, findings))
    return ExitCode.BOARD if any(f.state is Severity.ERROR for f in findings) else ExitCode.OK


def _findings(address: str, findings: Sequence[BoardFinding]) -> Iterator[str]:
    for one in findings:
        yield wrap(f"  {one.state:<8} {one.about:<12} ", one.found)
        if one.repair:
            yield wrap(f"  {'':<8} {'':<12} fix: ", one.repair)
    errors, warnings = (sum(f.state is state for f in findings) for state in (Severity.ERROR, Severity.WARNING))
    yield f"{address}: {errors} errors, {warnings} warnings"


def _facts(args: Namespace, out: Output) -> ExitCode:
    with opener_of(args.address, args.address, BoardSpec())() as board:
        facts = read_facts(board)
    out.show({"board": args.address, **asdict(facts)}, _fact_lines(facts))
    return ExitCode.OK


def _fact_lines(facts: Facts) -> Iterator[str]:
    """Yield what a board reports; a missing fact is a dash."""
    for name, value in asdict(facts).items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items())
        elif isinstance(value, tuple | list):
            value = ", ".join(value)
        yield wrap(f"  {name:<16} ", "-" if value in (None, "") else str(value))


def _trust(args: Namespace, out: Output) -> ExitCode:
    made = fetch_host_key(Address.parse(args.address))
    if args.fingerprint is not None:
        require_fingerprint(made, args.fingerprint)
    if made.status is not KeyStatus.TRUSTED:
        if args.fingerprint is None:
            _show_offer(made)
            if made.status is KeyStatus.UNKNOWN or args.replace:
                _ask(made.fingerprint)
        pin(made, replace=args.replace)
    key = {"board": made.board, "name": made.name, "kind": made.kind, "fingerprint": made.fingerprint}
    already = "already " if made.status is KeyStatus.TRUSTED else ""
    text = f"{made.board}: {made.kind} {made.fingerprint} is {already}trusted ({made.name} in {made.file})"
    out.show({**key, "before": made.status, "file": str(made.file)}, [text])
    return ExitCode.OK


def _show_offer(made: OfferedKey) -> None:
    """Print the key that a board offers, and the known one if it differs; on standard error."""
    lines = [f"known    {one}" for one in made.known]
    lines.append(f"offered  {made.kind} {made.fingerprint}  by {made.board}")
    if made.known:
        lines.append("The keys differ: another machine answers, or the board was reinstalled.")
    lines.append("Compare on the board's own screen: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    print("\n".join(lines), file=sys.stderr)


def _ask(fingerprint: str) -> None:
    """Have a person confirm a key.

    Raises:
        UsageError: there is no terminal, or the answer is not yes.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "nothing is trusted: there is no terminal to ask on",
            hint="compare the fingerprint with the board's, then add --fingerprint SHA256:...",
        )
    print("Is it the board's key (yes, or paste its fingerprint)? ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() not in ("yes", fingerprint):
        raise UsageError("nothing is trusted: the answer was not yes", hint="answer yes, or paste the fingerprint")


def _shell(args: Namespace) -> int:
    argv = args.command[1:] if args.command[:1] == ["--"] else args.command
    return shell(Address.parse(args.address), argv)


def _reserve(args: Namespace, out: Output) -> ExitCode:
    seconds, wait_s = _seconds(args.for_, "--for"), _seconds(args.wait, "--wait") if args.wait else 0.0
    with _open_of(args) as board, out.live() as live:
        held = reserve(board, seconds=seconds, why=args.why, wait_s=wait_s, emit=live.draw)
    until = f"{held.until:%Y-%m-%d %H:%M:%S} UTC, by its clock"
    text = f"{args.address} is reserved for {held.owner} until {until}: {held.why}"
    out.show({**asdict(held), "until": held.until.isoformat()}, [text])
    return ExitCode.OK


def _release(args: Namespace, out: Output) -> ExitCode:
    with _open_of(args) as board:
        was = release(board, force=args.force)
    text = f"the reservation of {was.owner} is released" if was else "was not reserved"
    out.show({"released": was is not None, "owner": was.owner if was else None}, [f"{args.address}: {text}"])
    return ExitCode.OK


def _open_of(args: Namespace) -> AbstractContextManager[Board]:
    spec = target_named(args.target).board if args.target is not None else BoardSpec()
    return opener_of(args.address, args.address, spec, root=args.root)()


def _seconds(text: str, option: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise UsageError(f"{option} {text!r} is not a time", hint="such as 45m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]
