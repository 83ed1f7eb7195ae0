"""rollback: the release before, verified, in one round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpudeploy.boards.ssh import SshBoard
from bpudeploy.effects.push import push
from bpudeploy.effects.rollback import rollback
from bpudeploy.effects.trust import TrustMode, trust
from bpudeploy.errors import BoardError
from bpudeploy.signing import SigningKey
from tests.effects.releases import SOON, Between, a_key, its_root, policy, quiet, release, served


@pytest.fixture
def two(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> Path:
    push(board, release(tmp_path, b"old", name="first", built=1), policy(key), quiet)
    push(board, release(tmp_path, b"new", name="second", built=2), policy(key), quiet)
    return root


def test_back_and_forth_in_one_round_trip_each(board: SshBoard, two: Path, key: SigningKey) -> None:
    counting = Between(board, lambda call, work: work())
    done = rollback(counting, quiet, signed=True, timing=SOON)
    assert counting.calls == 1 and done.name == "first" and done.release == (two / "current").resolve().name
    assert served(two, key.public) == b"old" and served(two, key.public, "previous") == b"new"
    rollback(board, quiet, signed=True, timing=SOON)
    assert served(two, key.public) == b"new" and served(two, key.public, "previous") == b"old"
    assert not (two / "lock").is_symlink()


@pytest.mark.parametrize("name", ["model.bin", "manifest.json", "statement", "statement.sig"])
def test_it_goes_back_to_nothing_that_is_damaged(board: SshBoard, two: Path, key: SigningKey, name: str) -> None:
    path = two / "previous" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(BoardError, match=r"earlier release is damaged|earlier release is not signed"):
        rollback(board, quiet, signed=True, timing=SOON)
    assert served(two, key.public) == b"new" and not (two / "lock").is_symlink()


def test_a_key_that_is_no_longer_trusted_takes_its_releases_with_it(
    board: SshBoard, two: Path, tmp_path: Path, key: SigningKey
) -> None:
    trust(board, a_key(tmp_path).public, TrustMode.REPLACE)
    with pytest.raises(BoardError, match="its earlier release is not signed by a key that it trusts"):
        rollback(board, quiet, signed=True, timing=SOON)
    assert served(two, key.public) == b"new"


def test_a_damaged_current_is_left_behind(board: SshBoard, two: Path, key: SigningKey) -> None:
    (two / "current" / "model.bin").unlink()
    rollback(board, quiet, signed=True, timing=SOON)
    assert served(two, key.public) == b"old"
    with pytest.raises(BoardError, match="no earlier release"):
        rollback(board, quiet, signed=True, timing=SOON)


def test_nothing_to_go_back_to_says_so(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    with pytest.raises(BoardError, match="no earlier release"):
        rollback(board, quiet, signed=True, timing=SOON)
    push(board, release(tmp_path, b"only"), policy(key), quiet)
    with pytest.raises(BoardError, match="no earlier release"):
        rollback(board, quiet, signed=True, timing=SOON)
    with its_root(board, tmp_path / "nowhere"), pytest.raises(BoardError, match="there is nothing at"):
        rollback(board, quiet, signed=True, timing=SOON)
