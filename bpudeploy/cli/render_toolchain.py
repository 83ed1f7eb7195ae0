"""What is printed of the vendor's toolchain."""

from __future__ import annotations

from pathlib import Path

from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.cli.render import show_json

_INSTALL = "`bpudeploy toolchain install`"


def show(found: Toolchain | None, folder: Path, lock: str, as_json: bool) -> None:
    """Print what is installed, and whether it is what this bpudeploy would install."""
    if as_json:
        show_json({"installed": found.model_dump(mode="json") if found else None, "folder": str(folder), "lock": lock})
        return
    if found is None:
        print(f"not installed in {folder}: {_INSTALL} installs it")
        return
    _print(found)
    if found.lock != lock:
        print(f"  installed from another list of packages than this bpudeploy's: {_INSTALL} replaces it")


def show_installed(made: Toolchain, new: bool, as_json: bool) -> None:
    """Print what was installed, or that it was there."""
    if as_json:
        show_json({"installed": made.model_dump(mode="json"), "new": new})
        return
    if not new:
        print("installed already")
    _print(made)
    print("  compile with it: bpudeploy run RECIPE --set target=rdk-x5 --until compile")


def show_removed(size: int | None, folder: Path, as_json: bool) -> None:
    """Print what was removed."""
    if as_json:
        show_json({"removed_bytes": size})
        return
    print(f"nothing is installed in {folder}" if size is None else f"removed {folder}, {size / 1e6:.0f} MB")


def _print(found: Toolchain) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    print(f"  {versions}; packages {found.lock}; CPython {found.python}")
    print(f"  {found.size / 1e6:.0f} MB in {found.folder}")
    print("  for X3 (bernoulli2), Ultra (bayes) and X5 (bayes-e); S100's hb_compile is in no registry")
