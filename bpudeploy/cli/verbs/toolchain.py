"""toolchain: install, show or remove the vendor's compiler for X3, X5 and Ultra."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from bpudeploy.backends.horizon.toolchain.install import install, remove
from bpudeploy.backends.horizon.toolchain.installed import Toolchain, folder, installed, lock_digest
from bpudeploy.cli.arguments import add
from bpudeploy.cli.output import Output
from bpudeploy.errors import ExitCode, UsageError

EXAMPLE = """\
  bpudeploy toolchain install
  bpudeploy toolchain install --python ~/.pyenv/versions/3.10.13/bin/python3.10

D-Robotics' own packages from the package index, pinned by sha256, in a separate environment:
$BPUDEPLOY_TOOLCHAIN, or bpudeploy-toolchain in the user's cache. Needs x86-64 Linux and CPython 3.10."""
_INSTALL = "`bpudeploy toolchain install`"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("install", "show", "remove"))
    parser.add_argument("--python", type=Path, metavar="FILE", help="for install: CPython 3.10 (default: searched for)")
    add(parser, "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    if args.python is not None and args.what != "install":
        raise UsageError("--python is for `toolchain install`", hint="leave it out")
    if args.what == "show":
        found, lock = installed(), lock_digest()
        document = {"installed": found.model_dump(mode="json") if found else None, "folder": str(folder())}
        out.show({**document, "lock": lock}, _shown(found, lock))
    elif args.what == "remove":
        size = remove()
        text = f"nothing is installed in {folder()}" if size is None else f"removed {folder()}, {size / 1e6:.0f} MB"
        out.show({"removed_bytes": size}, [text])
    else:
        with out.live() as live:
            made, new = install(args.python, live.draw)
        compile_with = "  compile with it: bpudeploy run RECIPE --set target=rdk-x5 --until compile"
        already = [] if new else ["already installed"]
        out.show({"installed": made.model_dump(mode="json"), "new": new}, [*already, *_described(made), compile_with])
    return ExitCode.OK


def _shown(found: Toolchain | None, lock: str) -> Iterator[str]:
    if found is None:
        yield f"not installed in {folder()}: {_INSTALL} installs it"
        return
    yield from _described(found)
    if found.lock != lock:
        yield f"  installed from another package list than this version of bpudeploy uses: {_INSTALL} replaces it"


def _described(found: Toolchain) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    yield f"  {versions}; packages {found.lock}; CPython {found.python}"
    yield f"  {found.size / 1e6:.0f} MB in {found.folder}"
    yield "  for X3 (bernoulli2), Ultra (bayes) and X5 (bayes-e); S100's hb_compile is in no registry"
