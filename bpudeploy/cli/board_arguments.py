"""The command line of boards, fleets, keys and rollback."""

from __future__ import annotations

import argparse
from pathlib import Path

from bpudeploy.cli.arguments import on_a_board, store, verb_of


def boards(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``boards``."""
    boards = verbs.add_parser("boards", help="what a board is, what it lacks, and whether it is the one you think")
    what = boards.add_subparsers(dest="what", metavar="WHAT", required=True)
    verb_of(what, "list", "the boards that runs in this folder reached", "bpudeploy boards list")
    doctor = verb_of(
        what,
        "doctor",
        "look at all that a deployment needs, and say how to repair what is missing",
        "bpudeploy boards doctor sunrise@192.168.1.10 --target rdk-x5\n\nIt reads; it changes nothing on the board.",
    )
    doctor.add_argument("--target", metavar="NAME", help="what the board is to be: its chip, its runtime, its folder")
    facts = verb_of(what, "facts", "what a board says of itself", "bpudeploy boards facts rdk-1 --json")
    trust = verb_of(
        what,
        "trust",
        "pin a board's host key in known_hosts, after you have compared its fingerprint",
        "bpudeploy boards trust rdk-1\n"
        "  bpudeploy boards trust rdk-1 --fingerprint SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
    )
    trust.add_argument("--fingerprint", metavar="SHA256:...", help="do not ask: trust this key, refuse another")
    trust.add_argument("--replace", action="store_true", help="take the key out that was known before")
    shell = verb_of(
        what,
        "shell",
        "a shell on the board, or one command, over the settings that push uses",
        "bpudeploy boards shell rdk-1\n"
        "  bpudeploy boards shell rdk-1 -- sh -c 'df -h | grep userdata'\n\n"
        "Its exit code is the command's. No word after -- is seen by a shell there; a pipe needs sh -c.",
    )
    reserve = verb_of(
        what,
        "reserve",
        "have a board for yourself for a while: pushes and rollouts of others are refused",
        'bpudeploy boards reserve sunrise@192.168.1.10 --target rdk-x5 --for 2h --why "thermal test"\n'
        '  bpudeploy boards reserve rdk-1 --for 30m --why "bring-up" --wait 1h',
    )
    reserve.add_argument("--for", required=True, dest="for_", metavar="TIME", help="such as 45m, 2h or 1d, from now")
    reserve.add_argument("--why", required=True, metavar="TEXT", help="told to those who want it meanwhile")
    reserve.add_argument("--wait", metavar="TIME", help="stand in its queue so long, if somebody else has it")
    release = verb_of(what, "release", "give a reserved board back", "bpudeploy boards release rdk-1")
    release.add_argument("--force", action="store_true", help="though it is somebody else's reservation")
    for verb in (reserve, release):
        verb.add_argument("--target", metavar="NAME", help="the kind of board: it says where releases are there")
        verb.add_argument("--root", metavar="FOLDER", help="where they are, if not where the target says")
    for verb in (doctor, facts, trust, shell, reserve, release):
        verb.add_argument("address", metavar="[USER@]HOST[:PORT]", help="HOST may be an alias of ~/.ssh/config")
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="default: a login shell")


def fleet(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``fleet``."""
    fleet = verbs.add_parser("fleet", help="a release to many boards, in waves, and back when it is bad")
    what = fleet.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, summary, example in (
        ("plan", "who would get what, in which wave, and what is to be sent; asks the boards, changes nothing", ""),
        ("rollout", "update the fleet, wave by wave, under its policy", " --webhook https://ci.example/hook"),
    ):
        verb = verb_of(what, name, summary, f"bpudeploy fleet {name} quickstart --fleet fleet.yaml{example}")
        verb.add_argument("release", metavar="RELEASE", help="a recipe's file, built for each target, or a built name")
        verb.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="the inventory (.yaml)")
        verb.add_argument("--select", metavar="SELECTOR", help="such as group=canary,chip=bayes-e; default: all")
        verb.add_argument(
            "--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE", help="of a recipe's file"
        )
        verb.add_argument("--dry-run", action="store_true", help="the same as plan")
        _controls(verb)
    steering = (
        ("status", "where a rollout stands, also while it runs elsewhere", "status"),
        ("pause", "begin nothing new; what runs ends", "pause"),
        ("resume", "go on: after a pause, or where a controller was killed", "resume"),
        ("abort", "begin nothing more; boards stay as they are", "abort"),
        ("approve", "let a wave begin that waits for it", "approve --wave 2"),
        ("reconcile", "bring boards up to date that a rollout did not reach", "reconcile"),
        ("report", "write report.html, junit.xml and summary.json again", "report"),
    )
    for name, summary, example in steering:
        verb = verb_of(what, name, summary, f"bpudeploy fleet {example}")
        verb.add_argument("rollout", nargs="?", metavar="ROLLOUT", help="or how it begins; default: the newest")
        if name in ("resume", "reconcile"):
            _controls(verb)
        if name == "approve":
            verb.add_argument("--wave", type=int, metavar="N", help="from 1; default: the one that waits")
    verb_of(what, "list", "the rollouts of this project", "bpudeploy fleet list")
    validate = verb_of(what, "validate", "check an inventory; asks nobody", "bpudeploy fleet validate fleet.yaml")
    validate.add_argument("fleet", type=Path, metavar="FILE")
    ansible = verb_of(
        what,
        "import",
        "write an inventory from one of Ansible's, to standard output",
        "bpudeploy fleet import hosts.ini --target rdk-x5 > fleet.yaml",
    )
    ansible.add_argument("inventory", type=Path, metavar="FILE", help="what `ansible-inventory -i` takes, or its JSON")
    ansible.add_argument("--target", metavar="NAME", help="of hosts without a variable bpudeploy_target")


def _controls(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--key", type=Path, metavar="FILE", help="signs the releases (default: what `keys new` made)")
    verb.add_argument("--allow-downgrade", action="store_true", help="push though a board has a later build of it")
    verb.add_argument("--webhook", metavar="URL", help="told of the end, as JSON; a failure of it changes nothing")
    store(verb)


def releases(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``keys`` and ``rollback``."""
    keys = verb_of(
        verbs,
        "keys",
        "the key that signs releases: make it, show it, have a board trust it",
        "bpudeploy keys new\n"
        "  bpudeploy keys install --board sunrise@192.168.1.10 --target rdk-x5\n\n"
        "A board activates only what a key that it trusts has signed; it learns one by `keys install` alone.",
    )
    keys.add_argument("what", choices=("new", "show", "install"), help="make one; print it; have a board trust it")
    keys.add_argument("--key", type=Path, metavar="FILE", help="default: ~/.config/bpudeploy/signing_key")
    on_a_board(keys)
    how = keys.add_mutually_exclusive_group()
    how.add_argument("--add", action="store_true", help="for install: beside the keys that it trusts already")
    how.add_argument("--replace", action="store_true", help="for install: instead of the keys that it trusts already")
    rollback = verb_of(
        verbs,
        "rollback",
        "make a board's previous release its current one",
        "bpudeploy rollback --board sunrise@192.168.1.10 --target rdk-x5",
    )
    on_a_board(rollback)
