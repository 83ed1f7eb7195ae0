"""The command line: arguments in, an exit code out. Imports nothing heavy; verbs are imported when called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bpudeploy import __version__
from bpudeploy.errors import BpudeployError, ExitCode

_EXAMPLES = """\
examples:
  bpudeploy plan recipes/quickstart.yaml             what would run, what is in the store, and why
  bpudeploy run recipes/quickstart.yaml              all the way to numbers from the board
  bpudeploy run R.yaml --set calibration.count=32    the same with one field changed
  bpudeploy run R.yaml --until quantize              build only, no board
  bpudeploy run R.yaml --board sunrise@192.168.1.10  on a board over SSH
  bpudeploy rollback --board B --target rdk-x5       the release before, again
  bpudeploy boards doctor sunrise@192.168.1.10       what a board is, and what it lacks
  bpudeploy explain R.yaml quantize                  why one step runs, part by part of its key
  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5   which operator would run where, and why
  bpudeploy estimate R.yaml --target rdk-x3,rdk-x5   how long it is predicted to take, before a board is bought

exit codes: 0 done, 2 wrong recipe or usage, 3 a stage failed, 4 a gate of check: is broken, 5 the board,
130 stopped by Ctrl-C (run again to go on)
"""


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(
        prog="bpudeploy",
        description="Vision transformers onto BPU boards: one recipe, one command.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bpudeploy {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    _recipe_verbs(verbs)
    _list_verbs(verbs)
    _inspect(verbs)
    _estimate(verbs)
    _precision(verbs)
    _sensitivity(verbs)
    _boards(verbs)
    _releases(verbs)
    cache = _verb(verbs, "cache", "what the store holds: ls, gc, verify", "bpudeploy cache gc --older-than 7 --dry-run")
    cache.add_argument("what", choices=("ls", "gc", "verify"), help="list records, remove old ones, hash every object")
    cache.add_argument("--older-than", type=float, default=30.0, metavar="DAYS", help="for gc: unused so long (30)")
    cache.add_argument("--dry-run", action="store_true", help="for gc: say what would go")
    _store(cache)
    return top


def _recipe_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = _verb(verbs, "run", "build, push and benchmark", "bpudeploy run recipes/quickstart.yaml --until quantize")
    _recipe(run)
    _keys(run)
    run.add_argument("--until", metavar="STEP", help="stop after this stage or step; no board is touched")
    _board(run)
    run.add_argument("--key", type=Path, metavar="FILE", help="signs the release (default: what `keys new` made)")
    run.add_argument("--allow-downgrade", action="store_true", help="push though the board has a later build of it")
    run.add_argument("--jobs", type=int, metavar="N", help="of a matrix: steps at once (default: one a core)")
    run.add_argument("--memory", type=float, metavar="GIB", help="of a matrix: what they may need in all")
    run.add_argument("--dry-run", action="store_true", help="the same as plan")
    plan = _verb(verbs, "plan", "say what run would do", "bpudeploy plan R.yaml --force quantize")
    _recipe(plan)
    _keys(plan)
    plan.add_argument("--until", metavar="STEP", help="look no further than this stage or step")
    explain = _verb(verbs, "explain", "why a step is a hit or a miss", "bpudeploy explain R.yaml quantize")
    _recipe(explain)
    explain.add_argument("step", help="a stage (quantize) or a step (quantize/scores)")
    _store(explain)
    validate = _verb(verbs, "validate", "check recipes; reads them only", "bpudeploy validate recipes/*.yaml")
    validate.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    validate.add_argument("--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE")
    pin = _verb(verbs, "pin", "fetch remote sources and print their sha256", "bpudeploy pin R.yaml")
    _recipe(pin)
    head = _verb(
        verbs, "fit-head", "fit a linear classifier on a backbone", "bpudeploy fit-head recipes/quickstart-head.yaml"
    )
    _recipe(head)
    head.add_argument("--l2", type=float, default=10.0, help="weight of the penalty on the weights (default: 10)")
    head.add_argument("--out", type=Path, metavar="FILE", help="default: the recipe's name with .safetensors")
    _store(head)


def _list_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    schema = _verb(verbs, "schema", "the JSON Schema of recipes, for editors", "bpudeploy schema > recipe.schema.json")
    schema.add_argument("what", nargs="?", choices=("recipe", "target"), default="recipe")
    _verb(verbs, "targets", "the kinds of board that a recipe can name", "bpudeploy targets")
    _verb(verbs, "backends", "the compile backends that are installed", "bpudeploy backends")
    report = _verb(
        verbs, "report", "draw a run again: table and report.html", "bpudeploy report .bpudeploy/runs/2026-11-24T..."
    )
    report.add_argument("run", type=Path, metavar="RUN_DIRECTORY")


def _inspect(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = _verb(
        verbs,
        "inspect",
        "which operator would run on the BPU and which on the CPU, why, and what would help",
        "bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5\n"
        "  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x3,rdk-x5,rdk-ultra,rdk-s100\n"
        "  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5 --original --all\n"
        "  bpudeploy inspect recipes/quickstart.yaml --target rdk-x5 --html placement.html\n\n"
        "It reads the vendors' operator lists; no compiler runs, nothing is fetched, no latency is predicted.",
    )
    _network(inspect)
    inspect.add_argument("--original", action="store_true", help="the graph as exported, not its 4-D form")
    inspect.add_argument("--all", action="store_true", help="every node, not groups of equal ones")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a picture of the graph")


def _estimate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    estimate = _verb(
        verbs,
        "estimate",
        "predict a network's latency on boards, what bounds it, what int16 costs and what the rewrite gains",
        "bpudeploy estimate recipes/quickstart.yaml --target rdk-x3,rdk-x5,rdk-s100\n"
        "  bpudeploy estimate deit_small_patch16_224 --target rdk-x5 --top 20\n"
        "  bpudeploy estimate deit_tiny_patch16_224 --target rdk-x5 --json\n\n"
        "Predicted by a model that was fitted to published latencies of other networks (docs/latency-model.md).\n"
        "No compiler and no board is asked, no weight is fetched, nothing is measured.",
    )
    _network(estimate)
    estimate.add_argument("--top", type=int, default=8, metavar="N", help="the dearest nodes to show (default: 8)")


def _network(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="an architecture of timm, an .onnx file, or a recipe (.yaml)")
    verb.add_argument(
        "--target", action="append", metavar="NAME[,NAME...]", help="default: the recipe's; `bpudeploy targets` lists"
    )
    verb.add_argument("--image-size", type=int, metavar="PIXELS", help="height and width, not the model's own")


def _precision(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    precision = _verb(
        verbs,
        "precision",
        "write the scales, and how each node is held, in files that a vendor's compiler takes",
        "bpudeploy precision recipes/quickstart.yaml --set target=rdk-x5 --out precisions\n\n"
        "scales.json always; node_info.yaml for hb_mapper (X5, Ultra), quant_config.json for hb_compile (S100).\n"
        "No vendor's compiler has read them yet.",
    )
    _recipe(precision)
    precision.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="made if it is not there")
    _store(precision)


def _sensitivity(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sensitivity = _verb(
        verbs,
        "sensitivity",
        "which tensors int8 hurts, what int16 would cost there, and how far each layer is from float",
        "bpudeploy sensitivity recipes/quickstart.yaml --images 4\n\n"
        "Of the network as quantize makes it, before any repair. The cost is predicted from counts, never measured.",
    )
    _recipe(sensitivity)
    sensitivity.add_argument("--images", type=int, default=8, help="calibration images to look at (default: 8)")
    _store(sensitivity)


def _releases(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    keys = _verb(
        verbs,
        "keys",
        "the key that signs releases: make it, show it, have a board trust it",
        "bpudeploy keys new\n"
        "  bpudeploy keys install --board sunrise@192.168.1.10 --target rdk-x5\n\n"
        "A board activates only what a key that it trusts has signed; it learns one by `keys install` alone.",
    )
    keys.add_argument("what", choices=("new", "show", "install"), help="make one; print it; have a board trust it")
    keys.add_argument("--key", type=Path, metavar="FILE", help="default: ~/.config/bpudeploy/signing_key")
    _on_a_board(keys)
    how = keys.add_mutually_exclusive_group()
    how.add_argument("--add", action="store_true", help="for install: beside the keys that it trusts already")
    how.add_argument("--replace", action="store_true", help="for install: instead of the keys that it trusts already")
    rollback = _verb(
        verbs,
        "rollback",
        "make a board's previous release its current one",
        "bpudeploy rollback --board sunrise@192.168.1.10 --target rdk-x5",
    )
    _on_a_board(rollback)


def _board(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--board", metavar="[USER@]HOST[:PORT]", help="the board, for a target that is reached over SSH")


def _on_a_board(verb: argparse.ArgumentParser) -> None:
    _board(verb)
    verb.add_argument("--target", metavar="NAME", help="the kind of board: it says where releases are there")


def _boards(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    boards = verbs.add_parser("boards", help="what a board is, what it lacks, and whether it is the one you think")
    what = boards.add_subparsers(dest="what", metavar="WHAT", required=True)
    _verb(what, "list", "the boards that runs in this folder reached", "bpudeploy boards list")
    doctor = _verb(
        what,
        "doctor",
        "look at all that a deployment needs, and say how to repair what is missing",
        "bpudeploy boards doctor sunrise@192.168.1.10 --target rdk-x5\n\nIt reads; it changes nothing on the board.",
    )
    doctor.add_argument("--target", metavar="NAME", help="what the board is to be: its chip, its runtime, its folder")
    facts = _verb(what, "facts", "what a board says of itself", "bpudeploy boards facts rdk-1 --json")
    trust = _verb(
        what,
        "trust",
        "pin a board's host key in known_hosts, after you have compared its fingerprint",
        "bpudeploy boards trust rdk-1\n"
        "  bpudeploy boards trust rdk-1 --fingerprint SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
    )
    trust.add_argument("--fingerprint", metavar="SHA256:...", help="do not ask: trust this key, refuse another")
    trust.add_argument("--replace", action="store_true", help="take the key out that was known before")
    shell = _verb(
        what,
        "shell",
        "a shell on the board, or one command, over the settings that push uses",
        "bpudeploy boards shell rdk-1\n"
        "  bpudeploy boards shell rdk-1 -- sh -c 'df -h | grep userdata'\n\n"
        "Its exit code is the command's. No word after -- is seen by a shell there; a pipe needs sh -c.",
    )
    for verb in (doctor, facts, trust, shell):
        verb.add_argument("address", metavar="[USER@]HOST[:PORT]", help="HOST may be an alias of ~/.ssh/config")
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="default: a login shell")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--json", action="store_true", help="one JSON document a line on standard output")
    return verb


def _recipe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe file (.yaml)")
    verb.add_argument(
        "--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE", help="change a field, such as a.b=c"
    )


def _keys(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--force", action="append", default=[], metavar="STEP", help="run it though it is in the store")
    _store(verb)


def _store(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--store", type=Path, metavar="FOLDER", help="default: $BPUDEPLOY_STORE, or bpudeploy in the user's cache"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. The only place that catches a BpudeployError."""
    args = parser().parse_args(argv)
    try:
        return int(import_module("bpudeploy.cli.verbs").VERBS[args.verb](args))
    except BpudeployError as error:
        from bpudeploy.cli.render import show_error

        show_error(error, args.json)
        return error.exit_code
    except KeyboardInterrupt:
        from bpudeploy.cli.render import show_interrupted

        show_interrupted()
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # who reads our output has enough, as in `bpudeploy cache ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def entry() -> None:
    """The console script."""
    code = main()
    if code == ExitCode.INTERRUPTED:
        # CPython remembers a Ctrl-C that hit an exec() (a dataclass being made by an import), and would end
        # the process by the signal although it was handled.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
