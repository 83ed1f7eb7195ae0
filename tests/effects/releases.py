"""Releases to push, keys to sign them, and what a board would load, looked at from outside."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bpudeploy import Release
from bpudeploy.boards.base import Board, CommandOutput
from bpudeploy.digest import digest_file
from bpudeploy.effects.lock import LockTiming
from bpudeploy.effects.push import PushPolicy
from bpudeploy.events import Event
from bpudeploy.release import Manifest
from bpudeploy.signing import PublicKey, SigningKey, new_key
from bpudeploy.stage import Artifact, Kind

SOON = LockTiming(wait_s=20, lease_s=0.2)
"""A lock whose owner is silent for a fifth of a second is taken over: tests leave many behind."""


def quiet(event: Event) -> None:
    """Nobody listens."""


def release(folder: Path, content: bytes, name: str = "r", built: int = 1) -> Release:
    path = folder / f"{hashlib.sha256(content).hexdigest()}.bin"
    path.write_bytes(content)
    binary = Artifact(Kind.BINARY, digest_file(path), path)
    manifest = Manifest(name, "local", "cpu", "ort", "onnxruntime", binary.digest, {"compile": (binary.digest,)})
    return Release(manifest, binary, built)


def a_key(folder: Path, name: str = "key") -> SigningKey:
    return new_key(folder / name)


def policy(key: SigningKey | None, *, downgrade: bool = True) -> PushPolicy:
    return PushPolicy(key, allow_downgrade=downgrade, timing=SOON)


def held_to(key: PublicKey, files: dict[str, bytes], name: str) -> bytes:
    """Return the binary of a release folder, held to its name, its manifest, its statement and its signature.

    Written apart from the board's own scripts, with another verifier (asyncssh), so that it can contradict them.
    """
    from asyncssh.sshsig import import_allowed_signers, validate_sshsig

    said = dict(line.split(" ", 1) for line in files["statement"].decode().splitlines())
    assert said["release"] == name == hashlib.sha256(b'["release",' + files["manifest.json"] + b"]").hexdigest()
    assert said["binary"] == hashlib.sha256(files["model.bin"]).hexdigest()
    signers = import_allowed_signers(key.allowed_signer + "\n")
    assert validate_sshsig(files["statement"], files["statement.sig"], "bpudeploy", signers)
    return files["model.bin"]


def served(root: Path, key: PublicKey, link: str = "current") -> bytes | None:
    """Return the binary that a board would load, held to all that vouches for it; None if there is no release."""
    path = root / link
    if not path.is_symlink():
        return None
    folder = path.resolve(strict=True)
    assert folder.parent == root.resolve() / "releases"
    return held_to(key, {f.name: f.read_bytes() for f in folder.iterdir()}, folder.name)


@dataclass
class Between:
    """A board with something between: ``around(call, work)`` sees every command and transfer, numbered from 1."""

    board: Board
    around: Callable[[int, Callable[[], Any]], Any]
    calls: int = 0
    argvs: list[list[str]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.board, name)

    def _call(self, work: Callable[[], Any]) -> Any:
        self.calls += 1
        return self.around(self.calls, work)

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> CommandOutput[str]:
        self.argvs.append(list(argv))
        made: CommandOutput[str] = self._call(lambda: self.board.run(argv, timeout=timeout, step=step))
        return made

    def run_with_input(self, argv: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return self._call(lambda: self.board.run_with_input(argv, *args, **kwargs))


@dataclass
class OnPath:
    """A board whose scripts find ``folder`` first on their PATH, with these variables; only sh scripts are touched."""

    board: Board
    folder: Path
    variables: dict[str, str]
    only: bool = False
    """Nothing else is on the PATH."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.board, name)

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> CommandOutput[str]:
        path = str(self.folder) if self.only else f"{self.folder}:/usr/local/bin:/usr/bin:/bin"
        settings = [f"{name}={value}" for name, value in ({"PATH": path} | self.variables).items()]
        shell = str(self.folder / "sh") if self.only and argv[0] == "sh" else argv[0]
        return self.board.run(["env", *settings, shell, *argv[1:]], timeout=timeout, step=step)


NEEDED = [
    "cat",
    "chmod",
    "cp",
    "df",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sh",
    "sha256sum",
    "sort",
    "sync",
    "wc",
]
"""All that a board must have, besides ssh-keygen."""


def tools(folder: Path, *, also: Sequence[str] = ("ssh-keygen",)) -> Path:
    """Return a folder with the tools that a board must have, and nothing else."""
    made = folder / "tools"
    made.mkdir()
    for name in (*NEEDED, *also):
        found = shutil.which(name)
        assert found, name
        (made / name).symlink_to(found)
    return made


@contextmanager
def its_root(board: Any, root: Path) -> Iterator[Path]:
    """Give a board another root for a while."""
    before, board.root = board.root, PurePosixPath(root)
    try:
        yield root
    finally:
        board.root = before
