"""The crash sweep: whatever is cut and whenever, the board serves the old release or the new one, and push heals."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpudeploy import Release
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.effects.lock import LockTiming
from bpudeploy.effects.push import PushPolicy, push
from bpudeploy.effects.rollback import rollback
from bpudeploy.effects.script import Script, script_text
from bpudeploy.effects.trust import trust
from bpudeploy.errors import BoardError
from bpudeploy.signing import SigningKey
from tests.effects.crash import Moment, Recording, Shim
from tests.effects.releases import Between, held_to, its_root, quiet, release, served

AT_ONCE = LockTiming(wait_s=20, lease_s=0)
OLD, NEW = b"old" * 100, b"new" * 100


@dataclass(frozen=True)
class Case:
    """What is on the board before, what is done, and what may be current at any time after."""

    name: str
    before: tuple[bytes, ...]
    push: bytes | None
    """None is a rollback."""
    old: bytes | None
    new: bytes
    keep: int = 3
    damage: bool = False
    """The current binary is damaged before; what is healed was broken, and may be so until it is whole."""


CASES = [
    Case("first install", (), NEW, None, NEW),
    Case("upgrade", (b"older" * 50, OLD), NEW, OLD, NEW),
    Case("upgrade that removes", (b"1" * 50, b"2" * 50, b"3" * 50, OLD), NEW, OLD, NEW, keep=1),
    Case("rollback", (NEW, OLD), None, OLD, NEW),
    Case("re-push of one that is there", (NEW, OLD), NEW, OLD, NEW),
    Case("re-push of the current one", (OLD, NEW), NEW, NEW, NEW),
    Case("heal", (OLD, NEW), NEW, None, NEW, damage=True),
]


@pytest.fixture
def place(board: SshBoard, tmp_path: Path, key: SigningKey, request: pytest.FixtureRequest) -> Any:
    """Set a case up once; each call puts the board's root back to that."""
    case: Case = request.param
    with its_root(board, tmp_path / "root") as root:
        trust(board, key.public)
        for number, content in enumerate(case.before):
            push(board, _release(tmp_path, content, number), _policy(key, case), quiet)
        if case.damage:
            path = root / "current" / "model.bin"
            path.chmod(0o644)
            path.write_bytes(NEW[:-1] + b"?")
        shutil.copytree(root, tmp_path / "template", symlinks=True)

        def again() -> Path:
            shutil.rmtree(root)
            shutil.copytree(tmp_path / "template", root, symlinks=True)
            return root

        yield case, again


def _release(folder: Path, content: bytes, number: int) -> Release:
    return release(folder, content, built=number)


def _policy(key: SigningKey, case: Case) -> PushPolicy:
    return PushPolicy(key, case.keep, allow_downgrade=True, timing=AT_ONCE)


def _act(board: Any, case: Case, folder: Path, key: SigningKey) -> None:
    if case.push is None:
        rollback(board, quiet, signed=True, timing=AT_ONCE)
    else:
        push(board, _release(folder, case.push, 99), _policy(key, case), quiet)


def _dies_with_the_first_error(board: Any) -> Between:
    """When the session was killed its deployer is gone too: no lock is given back, nothing is tidied."""
    dead = list[BaseException]()

    def around(call: int, work: Callable[[], Any]) -> Any:
        if dead:
            raise dead[0]
        made = work()
        if getattr(made, "status", 0) in (-1, 137, 255) or getattr(made, "status", 0) < 0:
            dead.append(BoardError("gone", board="b", step="push"))
        return made

    return Between(board, around)


def _holds(root: Path, key: SigningKey, case: Case) -> bytes | None:
    """Return what the board serves, the old or the new; what ``previous`` names is intact, if it names anything."""
    if case.damage and (root / "current" / "model.bin").read_bytes() != NEW:
        return None
    found = served(root, key.public)
    assert found in (case.old, case.new), found
    if (root / "previous").is_symlink():
        served(root, key.public, "previous")
    return found


def _fingerprint(root: Path) -> str:
    """Return what tells states apart; names and texts that hold a random token count as equal."""
    parts = list[object]()
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith("lock") or ".lock" in name:
            name, content = "lock", ""
        elif path.is_symlink():
            name, content = name[:9], str(path.readlink())
        else:
            content = path.read_bytes().hex() + oct(path.stat().st_mode) if path.is_file() else ""
        parts.append((name, content))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.mark.parametrize("place", CASES, ids=lambda c: c.name, indirect=True)
def test_killed_before_in_and_after_every_command(
    board: SshBoard, tmp_path: Path, key: SigningKey, place: tuple[Case, Callable[[], Path]]
) -> None:
    case, again = place
    shim = Shim.made(tmp_path / "shim")
    root = again()
    _act(shim.over(board), case, tmp_path, key)
    commands, ways = shim.count, [shim.ways(number + 1) for number in range(shim.count)]
    assert served(root, key.public) == case.new
    cuts, failures, healed, outcomes = 0, 0, set[str](), {case.old: 0, case.new: 0, None: 0}
    for number in range(1, commands + 1):
        for how in ways[number - 1]:
            root = again()
            try:
                _act(_dies_with_the_first_error(shim.over(board, cut=number, how=how)), case, tmp_path, key)
            except BoardError as error:
                assert how != "fail" or "No space left" in str(error)
                failures += how == "fail"
            cuts += how != "fail"
            outcomes[_holds(root, key, case)] += 1
            state = _fingerprint(root)
            if state not in healed:
                healed.add(state)
                push(board, _release(tmp_path, case.new, 99), _policy(key, case), quiet)
                assert served(root, key.public) == case.new and not list(root.glob(".*")), "the next push heals"
                assert not (root / "lock").is_symlink()
                assert how == "fail" or not list((root / "incoming").iterdir())
    told = f"{cuts} kills, {failures} failures told, {len(healed)} states healed"
    print(f"{case.name}: {commands} commands, {told}, {outcomes[case.old]} times the old one")
    assert cuts >= 2 * commands and failures >= commands // 2, "what tidies may fail, and so may the probe of sync"


@pytest.mark.parametrize("place", CASES, ids=lambda c: c.name, indirect=True)
def test_power_lost_after_every_command(
    board: SshBoard, tmp_path: Path, key: SigningKey, place: tuple[Case, Callable[[], Path]]
) -> None:
    case, again = place
    commands, disks = _lose_power(board, again(), Shim.made(tmp_path / "shim"), case, tmp_path, key)
    print(f"{case.name}: {commands} commands, {disks} disks")


UPGRADE, ROLLBACK, HEAL = CASES[1], CASES[3], CASES[6]


@pytest.mark.parametrize(
    ("place", "script", "line"),
    [
        (UPGRADE, Script.INSTALL, 'fsync "$new/model.bin" "$new/statement" "$new/manifest.json" "$new/statement.sig"'),
        (UPGRADE, Script.INSTALL, 'fsync "$new"'),
        (UPGRADE, Script.INSTALL, "fsync releases incoming"),
        (UPGRADE, Script.INSTALL, "fsync ."),
        (HEAL, Script.INSTALL, 'fsync "releases/$digest"'),
        (ROLLBACK, Script.ROLLBACK, "fsync ."),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else value,
    indirect=["place"],
)
def test_each_fsync_is_missed_when_it_is_not_there(
    board: SshBoard,
    tmp_path: Path,
    key: SigningKey,
    place: tuple[Case, Callable[[], Path]],
    script: Script,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model of a power failure would see an order that is wrong: each line alone is needed."""
    case, again = place
    whole = script_text(script)
    without = re.sub(rf"^( *){re.escape(line)}$", r"\1:", whole, flags=re.MULTILINE)
    assert without != whole
    monkeypatch.setattr(
        "bpudeploy.effects.script.script_text", lambda wanted: without if wanted is script else script_text(wanted)
    )
    with pytest.raises((AssertionError, KeyError, ValueError)):
        _lose_power(board, again(), Shim.made(tmp_path / "shim"), case, tmp_path, key)


def _lose_power(board: SshBoard, root: Path, shim: Shim, case: Case, folder: Path, key: SigningKey) -> tuple[int, int]:
    """Hold every disk that a power failure may leave to the case; returns the commands and the disks."""
    before = _moment(root, shim)
    _act(shim.over(board, how="record"), case, folder, key)
    recording = Recording.read(shim, before, root)
    disks, seen = 0, dict[tuple[tuple[str, bytes], ...], bytes]()
    for at in range(len(recording.moments)):
        for disk in recording.disks(at):
            disks += 1
            if disk is None:
                assert case.old is None, f"no release at all after command {at}"
                continue
            if case.damage and disk.get("model.bin") != NEW:
                continue
            known = tuple(sorted(disk.items()))
            if known not in seen:
                seen[known] = _held(disk, key)
            assert seen[known] in (case.old, case.new)
    last = {_held(disk, key) for disk in recording.disks(len(recording.moments) - 1) if disk}
    assert last == {case.new}, "what was said to be current stays so"
    return len(recording.moments) - 1, disks


def _held(disk: dict[str, bytes], key: SigningKey) -> bytes:
    return held_to(key.public, {name: data for name, data in disk.items() if name}, disk[""].decode())


def _moment(root: Path, shim: Shim) -> Moment:
    found = ["/usr/bin/find", str(root), "-exec", "/usr/bin/stat", "-c", "%i %w|%n", "{}", "+"]
    inodes = subprocess.run(found, capture_output=True, text=True, check=True).stdout
    shutil.copytree(root, shim.folder / "0.tree", symlinks=True)
    return Moment.read(shim.folder / "0.tree", root, inodes)
