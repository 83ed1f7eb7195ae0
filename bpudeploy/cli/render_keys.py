"""Drawing what became of keys and of a rollback: text, or one JSON document."""

from __future__ import annotations

from pathlib import Path

from bpudeploy.cli.render import show_json
from bpudeploy.digest import short
from bpudeploy.effects.rollback import RolledBack
from bpudeploy.signing import PublicKey


def show_key(path: Path, key: PublicKey, as_json: bool) -> None:
    """Print where a key is and its public half."""
    if as_json:
        show_json({"file": str(path), "fingerprint": key.fingerprint, "public": key.text})
        return
    print(f"{path}: {key.fingerprint}\n  {key.text}")


def show_trusted(board: str, key: PublicKey, new: bool, as_json: bool) -> None:
    """Print that a board trusts a key."""
    if as_json:
        show_json({"board": board, "fingerprint": key.fingerprint, "new": new})
        return
    print(f"{board} {'now trusts' if new else 'trusted already'} {key.fingerprint}")


def show_rolled_back(board: str, done: RolledBack, as_json: bool) -> None:
    """Print what is current after a rollback."""
    if as_json:
        show_json({"board": board, "release": done.release, "name": done.name})
        return
    print(f"{board} has release {short(done.release)} of {done.name or 'an unknown recipe'} again, verified there")
