"""Arguments that several verbs share, and what they stand for."""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import UsageError

if TYPE_CHECKING:
    from bpudeploy.run.local import Budget
    from bpudeploy.spec.load import LoadedRecipe
    from bpudeploy.spec.target import Target

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

_SHARE = 0.8
"""The share of free memory that parallel steps may use by default."""


_SHARED: dict[str, dict[str, Any]] = {
    "recipe": {"type": Path, "metavar": "RECIPE", "help": "a recipe file (.yaml)"},
    "suite": {"type": Path, "metavar": "SUITE", "help": "a suite file (.yaml)"},
    "--json": {"action": "store_true", "help": "print JSON on standard output, one document per line"},
    "--set": {
        "action": "append",
        "default": [],
        "dest": "sets",
        "metavar": "FIELD=VALUE",
        "help": "change a field, such as a.b=c",
    },
    "--force": {"action": "append", "default": [], "metavar": "STEP", "help": "run a step even if it is cached"},
    "--store": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "default: $BPUDEPLOY_STORE, or bpudeploy in the user's cache",
    },
    "--only": {"action": "append", "default": [], "metavar": "JOB", "help": "RECIPE@TARGET; may be repeated"},
    "--board": {"metavar": "[USER@]HOST[:PORT]", "help": "the board, for a target that uses SSH"},
    "--target": {"metavar": "NAME", "help": "the kind of board, which defines where releases are installed"},
    "--results": {
        "metavar": "URL",
        "help": "default: $BPUDEPLOY_RESULTS, or SQLite in .bpudeploy; also postgresql://...",
    },
    "--executor": {"metavar": "WHERE", "help": "where steps run: local, dask:N, or tcp://HOST:PORT of Dask"},
    "--shared-store": {
        "metavar": "URL",
        "help": "a store shared by several machines (default: $BPUDEPLOY_SHARED_STORE)",
    },
    "--jobs": {"type": int, "metavar": "N", "help": "steps to run in parallel (default: one per core)"},
    "--memory": {"type": float, "metavar": "GIB", "help": "memory that parallel steps may use in all"},
    "--at-least": {
        "type": float,
        "default": 1.0,
        "metavar": "PERCENT",
        "help": "ignore smaller changes of latency (1)",
    },
}
"""The arguments that several verbs share, as ``add_argument`` takes them."""


def add(verb: argparse.ArgumentParser, *names: str) -> None:
    """Add shared arguments to a verb."""
    for name in names:
        verb.add_argument(name, **_SHARED[name])


def add_verb(verbs: Verbs, name: str, summary: str, example: str | None) -> argparse.ArgumentParser:
    """Add a verb, or a part of one, with its help."""
    return verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n{example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_network(verb: argparse.ArgumentParser) -> None:
    """Add the model, --target and --image-size of verbs that look at a network without building it."""
    verb.add_argument("model", metavar="MODEL", help="a timm architecture, an .onnx file, or a recipe (.yaml)")
    verb.add_argument(
        "--target", action="append", metavar="NAME[,NAME...]", help="default: the recipe's; `bpudeploy targets` lists"
    )
    verb.add_argument("--image-size", type=int, metavar="PIXELS", help="height and width, instead of the model's own")
    add(verb, "--json")


def store(args: Namespace) -> Path:
    """Return the store's folder."""
    from bpudeploy.store.objects import default_root

    root: Path = args.store or default_root()
    return root


def recipes(args: Namespace, *, to_look: bool = False) -> tuple[LoadedRecipe, ...]:
    """Return the recipe, or those of its matrix."""
    from bpudeploy.backends.registry import backend_names
    from bpudeploy.spec.load import load_recipe

    return load_recipe(args.recipe, args.sets, backend_names, to_look=to_look)


def shared_store(args: Namespace) -> str | None:
    """Return the URL of the shared store, from the command line or the environment."""
    url: str | None = args.shared_store or os.environ.get("BPUDEPLOY_SHARED_STORE")
    return url or None


def budget(args: Namespace, plans: int) -> Budget:
    """Return how many steps may run in parallel on this machine, and the memory for them.

    Raises:
        UsageError: --jobs or --memory is out of range, or does not apply to --executor.
    """
    from bpudeploy.run.executors import LOCAL
    from bpudeploy.run.local import Budget

    if args.executor not in (None, LOCAL) and (args.jobs or args.memory):
        raise UsageError(
            "--jobs and --memory apply to this machine only, and the steps run on workers",
            hint="start as many workers as steps are to run in parallel",
        )
    jobs, memory = args.jobs or min(plans, os.cpu_count() or 1), args.memory
    if jobs < 1 or (memory is not None and memory <= 0):
        raise UsageError("--jobs must be 1 or more, and --memory above 0", hint="--jobs 2 --memory 8")
    return Budget(jobs, memory * 2**30 / 1e6 if memory else _SHARE * _free_mb())


def _free_mb() -> float:
    """Return MemAvailable in MB (10^6 bytes), or all memory if Linux does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6


def targets_named(named: list[str] | None) -> tuple[Target, ...]:
    """Return the targets of ``--target a,b``, each once, in the order given."""
    names = dict.fromkeys(name for text in named or () for name in text.split(",") if name)
    return tuple(target_named(name) for name in names)


def target_named(name: str) -> Target:
    """Return the target of that name, or in that file.

    Raises:
        UsageError: there is none.
    """
    from bpudeploy.errors import SpecError
    from bpudeploy.spec.load import load_target

    try:
        return load_target(name, Path())[0]
    except SpecError as error:
        if error.where is not None:
            raise
        raise UsageError(error.message, hint=error.hint) from error


def require_image_size(pixels: int | None) -> None:
    """Refuse an ``--image-size`` that no network takes.

    Raises:
        UsageError: it is not within 16 to 4096 pixels.
    """
    if pixels is not None and not 16 <= pixels <= 4096:
        raise UsageError(f"--image-size {pixels} is out of range", hint="give 16 to 4096 pixels")
