"""The command line: arguments in, an exit code out. A verb's module is imported when it is called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from bpudeploy import __version__
from bpudeploy.cli.arguments import add_verb
from bpudeploy.cli.output import Output
from bpudeploy.errors import BpudeployError, ExitCode
from bpudeploy.extras import missing_extra

_EXAMPLES = """\
examples:
  bpudeploy plan recipes/quickstart.yaml             what a run would do, what is cached, and why
  bpudeploy run recipes/quickstart.yaml              build, push and benchmark
  bpudeploy run R.yaml --set calibration.count=32    the same with one field changed
  bpudeploy run R.yaml --until quantize              build only, no board
  bpudeploy run R.yaml --board sunrise@192.168.1.10  on a board over SSH
  bpudeploy bench quickstart --against 3fa9c1d2      compare two releases on one board
  bpudeploy report --out results.html                a page of all measurements
  bpudeploy nightly suite.yaml                       find regressions, and when they began
  bpudeploy rollback --board B --target rdk-x5       make the previous release current
  bpudeploy boards doctor sunrise@192.168.1.10       check that a board is ready
  bpudeploy explain R.yaml quantize                  why a step runs, by each part of its cache key
  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5   which operators run on the BPU, and why
  bpudeploy estimate R.yaml --target rdk-x3,rdk-x5   predict the latency

exit codes: 0 done, 2 wrong recipe or usage, 3 a stage failed, 4 a check failed, 5 board error,
130 interrupted by Ctrl-C (run again to resume)
"""

VERBS = {
    "run": "build, push and benchmark",
    "plan": "show what run would do",
    "explain": "show why a step is a cache hit or a miss",
    "validate": "check recipes without running them",
    "pin": "fetch remote sources and print their sha256",
    "fit-head": "fit a linear classifier on a backbone",
    "schema": "print the JSON Schema of recipes, for editors",
    "targets": "list the boards that a recipe can name",
    "backends": "list the installed compile backends",
    "toolchain": "install, show or remove the vendor's compiler for X3, X5 and Ultra",
    "bench": "measure a release on a board, or compare two, without activating them",
    "compare": "decide from stored measurements whether B is better or worse than A",
    "report": "show all measurements as a page, JSON or CSV, or one run again",
    "inspect": "show which operators run on the BPU and which on the CPU, why, and what would help",
    "estimate": "predict the latency on boards, what bounds it, and what the rewrite gains",
    "tune": "choose how a network's tokens are laid out, by the compiler's estimate of its blocks",
    "precision": "export scales and precisions in the files that a vendor's compiler takes",
    "profile": "show where a binary's time goes, by the compiler's estimate of each layer",
    "sensitivity": "rank tensors by how much int8 hurts them and what int16 would cost",
    "boards": "check boards, trust their host keys, reserve them",
    "fleet": "roll a release out to many boards, in waves, with automatic rollback",
    "keys": "create, show or install the key that signs releases",
    "rollback": "make a board's previous release its current one",
    "nightly": "measure a suite of recipes on its boards and report regressions",
    "baseline": "show or pin the releases that nights are compared with",
    "bisect": "find the commit or release that made a metric worse",
    "cache": "list, collect or verify the store",
}
"""Every verb and its summary; ``bpudeploy.cli.verbs`` has a module for each."""


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Return the command line.

    Args:
        verb: the only verb whose arguments are needed; None defines all of them.
    """
    top = argparse.ArgumentParser(
        prog="bpudeploy",
        description="Vision models onto BPU boards: one recipe, one command.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bpudeploy {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        module = _module(name) if verb in (None, name) else None
        one = add_verb(verbs, name, summary, module.EXAMPLE if module else None)
        if module is not None:
            module.arguments(one)
    return top


def _module(verb: str) -> ModuleType:
    """Return a verb's module: ``EXAMPLE``, ``arguments(parser)`` and ``run(args, out) -> ExitCode``."""
    return import_module(f"bpudeploy.cli.verbs.{verb.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. The only place that catches a BpudeployError."""
    words = list(sys.argv[1:] if argv is None else argv)
    out = Output("--json" in words)
    try:
        named = next((word for word in words if not word.startswith("-")), "")
        args = parser(named).parse_args(words)
        out = Output(args.json)
        return int(_module(args.verb).run(args, out))
    except BpudeployError as error:
        out.error(error)
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        out.error(missing)
        return missing.exit_code
    except KeyboardInterrupt:
        out.warn("interrupted; finished steps are in the store", fix="run the same command again to resume")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, as in `bpudeploy cache ls | head`
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
