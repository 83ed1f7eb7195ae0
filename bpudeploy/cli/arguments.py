"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path


def verb_of(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add a verb with its help and its example; all have --json."""
    verb = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--json", action="store_true", help="one JSON document a line on standard output")
    return verb


def recipe_of(verb: argparse.ArgumentParser) -> None:
    """Add the recipe, and --set."""
    verb.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe file (.yaml)")
    verb.add_argument(
        "--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE", help="change a field, such as a.b=c"
    )


def forces(verb: argparse.ArgumentParser) -> None:
    """Add --force, and the store."""
    verb.add_argument("--force", action="append", default=[], metavar="STEP", help="run it though it is in the store")
    store(verb)


def store(verb: argparse.ArgumentParser) -> None:
    """Add --store."""
    verb.add_argument(
        "--store", type=Path, metavar="FOLDER", help="default: $BPUDEPLOY_STORE, or bpudeploy in the user's cache"
    )


def board(verb: argparse.ArgumentParser) -> None:
    """Add --board."""
    verb.add_argument("--board", metavar="[USER@]HOST[:PORT]", help="the board, for a target that is reached over SSH")


def on_a_board(verb: argparse.ArgumentParser) -> None:
    """Add the board and its target."""
    board(verb)
    verb.add_argument("--target", metavar="NAME", help="the kind of board: it says where releases are there")


def results(verb: argparse.ArgumentParser) -> None:
    """Add --results."""
    verb.add_argument(
        "--results", metavar="URL", help="default: $BPUDEPLOY_RESULTS, or SQLite in .bpudeploy; postgresql://... too"
    )


def executor(verb: argparse.ArgumentParser) -> None:
    """Add --executor and --shared-store."""
    verb.add_argument("--executor", metavar="WHERE", help="where steps run: local, dask:N, or tcp://HOST:PORT of Dask")
    verb.add_argument(
        "--shared-store", metavar="URL", help="a store that machines share (default: $BPUDEPLOY_SHARED_STORE)"
    )
