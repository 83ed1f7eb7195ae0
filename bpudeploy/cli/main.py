"""The command line: arguments in, an exit code out. Imports nothing heavy; verbs are imported when called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bpudeploy import __version__
from bpudeploy.cli import board_arguments, nightly_arguments
from bpudeploy.cli.arguments import board, executor, forces, on_a_board, recipe_of, results, store, verb_of
from bpudeploy.errors import BpudeployError, ExitCode

_EXAMPLES = """\
examples:
  bpudeploy plan recipes/quickstart.yaml             what would run, what is in the store, and why
  bpudeploy run recipes/quickstart.yaml              all the way to numbers from the board
  bpudeploy run R.yaml --set calibration.count=32    the same with one field changed
  bpudeploy run R.yaml --until quantize              build only, no board
  bpudeploy run R.yaml --board sunrise@192.168.1.10  on a board over SSH
  bpudeploy bench quickstart --against 3fa9c1d2      two releases on one board, in turns
  bpudeploy report --out results.html                all that was measured, drawn
  bpudeploy nightly suite.yaml                       what got worse since yesterday, and since when
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
    _toolchain(verbs)
    _measuring(verbs)
    _inspect(verbs)
    _estimate(verbs)
    _precision(verbs)
    _sensitivity(verbs)
    board_arguments.boards(verbs)
    board_arguments.fleet(verbs)
    board_arguments.releases(verbs)
    nightly_arguments.nightly(verbs)
    cache = verb_of(
        verbs, "cache", "what the store holds: ls, gc, verify", "bpudeploy cache gc --older-than 7 --dry-run"
    )
    cache.add_argument("what", choices=("ls", "gc", "verify"), help="list records, remove old ones, hash every object")
    cache.add_argument("--older-than", type=float, default=30.0, metavar="DAYS", help="for gc: unused so long (30)")
    cache.add_argument("--dry-run", action="store_true", help="for gc: say what would go")
    store(cache)
    return top


def _recipe_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = verb_of(verbs, "run", "build, push and benchmark", "bpudeploy run recipes/quickstart.yaml --until quantize")
    recipe_of(run)
    forces(run)
    run.add_argument("--until", metavar="STEP", help="stop after this stage or step; no board is touched")
    board(run)
    run.add_argument("--key", type=Path, metavar="FILE", help="signs the release (default: what `keys new` made)")
    run.add_argument("--allow-downgrade", action="store_true", help="push though the board has a later build of it")
    run.add_argument("--jobs", type=int, metavar="N", help="of a matrix: steps at once (default: one a core)")
    run.add_argument("--memory", type=float, metavar="GIB", help="of a matrix: what they may need in all")
    executor(run)
    run.add_argument("--dry-run", action="store_true", help="the same as plan")
    plan = verb_of(verbs, "plan", "say what run would do", "bpudeploy plan R.yaml --force quantize")
    recipe_of(plan)
    forces(plan)
    plan.add_argument("--until", metavar="STEP", help="look no further than this stage or step")
    explain = verb_of(verbs, "explain", "why a step is a hit or a miss", "bpudeploy explain R.yaml quantize")
    recipe_of(explain)
    explain.add_argument("step", help="a stage (quantize) or a step (quantize/scores)")
    store(explain)
    validate = verb_of(verbs, "validate", "check recipes; reads them only", "bpudeploy validate recipes/*.yaml")
    validate.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    validate.add_argument("--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE")
    pin = verb_of(verbs, "pin", "fetch remote sources and print their sha256", "bpudeploy pin R.yaml")
    recipe_of(pin)
    head = verb_of(
        verbs, "fit-head", "fit a linear classifier on a backbone", "bpudeploy fit-head recipes/quickstart-head.yaml"
    )
    recipe_of(head)
    head.add_argument("--l2", type=float, default=10.0, help="weight of the penalty on the weights (default: 10)")
    head.add_argument("--out", type=Path, metavar="FILE", help="default: the recipe's name with .safetensors")
    store(head)


def _list_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    schema = verb_of(
        verbs, "schema", "the JSON Schema of recipes, for editors", "bpudeploy schema > recipe.schema.json"
    )
    schema.add_argument("what", nargs="?", choices=("recipe", "target", "fleet", "suite"), default="recipe")
    verb_of(verbs, "targets", "the kinds of board that a recipe can name", "bpudeploy targets")
    verb_of(verbs, "backends", "the compile backends that are installed", "bpudeploy backends")


def _toolchain(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    toolchain = verb_of(
        verbs,
        "toolchain",
        "install the vendor's compiler for X3, X5 and Ultra, show it, or remove it",
        "bpudeploy toolchain install\n"
        "  bpudeploy toolchain install --python ~/.pyenv/versions/3.10.13/bin/python3.10\n\n"
        "D-Robotics' own packages from the package index, pinned by sha256, in an environment of their own:\n"
        "$BPUDEPLOY_TOOLCHAIN, or bpudeploy-toolchain in the user's cache. x86-64 Linux with a CPython 3.10.",
    )
    toolchain.add_argument("what", choices=("install", "show", "remove"))
    toolchain.add_argument(
        "--python", type=Path, metavar="FILE", help="for install: a CPython 3.10 (default: it looks)"
    )


def _measuring(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = verb_of(
        verbs,
        "bench",
        "measure a release on a board, or two in turns; nothing is activated there",
        "bpudeploy bench quickstart\n"
        "  bpudeploy bench resnet18@rdk-x5 --board sunrise@192.168.1.10\n"
        "  bpudeploy bench 3fa9c1d2 --against quickstart --board sunrise@192.168.1.10\n\n"
        "A release is a recipe's name (its latest), NAME@TARGET, the first digits of a digest, or a run directory.\n"
        "Its clocks are held at their maximum where the account may do that, and put back, whatever happens.",
    )
    bench.add_argument("release", metavar="RELEASE", help="one that `bpudeploy run` built here")
    bench.add_argument("--against", metavar="RELEASE", help="measured in turns with it, round by round, and compared")
    on_a_board(bench)
    bench.add_argument("--rounds", type=int, metavar="N", help="at least; default: as the recipe says")
    bench.add_argument("--max-seconds", type=float, metavar="S", help="no further round begins after so long")
    _at_least(bench)
    store(bench)
    results(bench)
    compare = verb_of(
        verbs,
        "compare",
        "is B faster, slower, more or less accurate than A, or can nobody tell?",
        "bpudeploy compare 3fa9c1d2 quickstart\n\n"
        "Of what is in the results store, on one board. Exit 4: B is worse. Measured, simulated and predicted figures\n"
        "are never compared with each other. Two that were not measured in turns need three sessions each.",
    )
    compare.add_argument("a", metavar="A", help="a recipe's name (its latest), NAME@TARGET, or digits of a digest")
    compare.add_argument("b", metavar="B")
    compare.add_argument("--board", metavar="BOARD", help="where both were measured on several")
    _at_least(compare)
    results(compare)
    report = verb_of(
        verbs,
        "report",
        "all that was measured, as a page, JSON or CSV; or one run again",
        "bpudeploy report --recipe quickstart --out results.html\n"
        "  bpudeploy report --csv > results.csv\n"
        "  bpudeploy report .bpudeploy/runs/2026-11-24T...",
    )
    report.add_argument("run", nargs="?", type=Path, metavar="RUN_DIRECTORY", help="draw this run's report.html again")
    report.add_argument("--recipe", metavar="NAME")
    report.add_argument("--target", metavar="NAME")
    report.add_argument("--board", metavar="BOARD")
    report.add_argument("--last", type=int, metavar="N", help="the newest so many")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: results.html")
    report.add_argument("--csv", action="store_true", help="rows on standard output, no page")
    results(report)


def _at_least(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--at-least", type=float, default=1.0, metavar="PERCENT", help="a change of latency below is none (1)"
    )


def _inspect(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = verb_of(
        verbs,
        "inspect",
        "which operator would run on the BPU and which on the CPU, why, and what would help",
        "bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5\n"
        "  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x3,rdk-x5,rdk-ultra,rdk-s100\n"
        "  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5 --original --all\n"
        "  bpudeploy inspect recipes/quickstart.yaml --target rdk-x5 --html placement.html\n"
        "  bpudeploy inspect model.onnx --target rdk-x3,rdk-x5 --with-compiler\n\n"
        "It reads what the vendor's checker did with small networks, and the vendors' operator lists. No compiler\n"
        "runs unless asked, nothing is fetched, no latency is predicted.",
    )
    _network(inspect)
    inspect.add_argument("--original", action="store_true", help="the graph as exported, not its 4-D form")
    inspect.add_argument(
        "--with-compiler",
        action="store_true",
        help="ask the vendor's own checker (X3, Ultra, X5; see `bpudeploy toolchain`)",
    )
    inspect.add_argument("--all", action="store_true", help="every node, not groups of equal ones")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a picture of the graph")


def _estimate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    estimate = verb_of(
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
    precision = verb_of(
        verbs,
        "precision",
        "write the scales, and how each node is held, in files that a vendor's compiler takes",
        "bpudeploy precision recipes/quickstart.yaml --set target=rdk-x5 --out precisions\n\n"
        "scales.json always; node_info.yaml for hb_mapper (X5, Ultra), quant_config.json for hb_compile (S100).",
    )
    recipe_of(precision)
    precision.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="made if it is not there")
    store(precision)


def _sensitivity(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sensitivity = verb_of(
        verbs,
        "sensitivity",
        "which tensors int8 hurts, what int16 would cost there, and how far each layer is from float",
        "bpudeploy sensitivity recipes/quickstart.yaml --images 4\n\n"
        "Of the network as quantize makes it, before any repair. The cost is predicted from counts, never measured.",
    )
    recipe_of(sensitivity)
    sensitivity.add_argument("--images", type=int, default=8, help="calibration images to look at (default: 8)")
    store(sensitivity)


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
