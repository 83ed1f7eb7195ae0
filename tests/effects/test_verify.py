"""The golden self-check: a release that is not the network it should be is not left current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bpudeploy.boards.ssh import SshBoard
from bpudeploy.effects.push import push
from bpudeploy.effects.verify import GoldenSet, verify_or_roll_back
from bpudeploy.errors import BoardError, ConnectionLost
from bpudeploy.results.golden import self_check
from bpudeploy.signing import SigningKey
from tests.effects.releases import policy, quiet, release, served
from tests.effects.test_bench import Frail, samples
from tests.effects.test_bench import network as network


def golden(network: tuple[bytes, Path, Any], factor: float = 1.0) -> GoldenSet:
    return GoldenSet(samples(network[1]), tuple(tuple(float(v) * factor for v in row) for row in network[2]))


def test_a_good_release_stays(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, network: tuple[bytes, Path, Any]
) -> None:
    made = release(tmp_path, network[0])
    push(board, made, policy(key), quiet)
    checked = verify_or_roll_back(board, made, golden(network), policy(key), True, quiet)
    assert checked.holds and checked.same == checked.images == 7 and checked.deviation < 1e-3
    assert served(root, key.public) == network[0]


@pytest.mark.parametrize("how", ["another network", "rubbish"])
def test_a_wrong_one_goes_back_to_the_one_before(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, network: tuple[bytes, Path, Any], how: str
) -> None:
    good = release(tmp_path, network[0])
    push(board, good, policy(key), quiet)
    content = network[0] + b"\x72\x00" if how == "another network" else b"no onnx"
    bad = release(tmp_path, content, built=2)
    push(board, bad, policy(key), quiet)
    with pytest.raises(BoardError, match=rf"does not run there as on this machine.*serves {good.digest[:12]} again"):
        verify_or_roll_back(board, bad, golden(network, -1.0), policy(key), True, quiet)
    assert served(root, key.public) == network[0]


def test_with_none_before_it_says_what_the_board_serves(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, network: tuple[bytes, Path, Any]
) -> None:
    bad = release(tmp_path, network[0])
    push(board, bad, policy(key), quiet)
    failed = r"it still serves that release, because the rollback failed.*no earlier release"
    with pytest.raises(BoardError, match=failed):
        verify_or_roll_back(board, bad, golden(network, -1.0), policy(key), True, quiet)
    with pytest.raises(BoardError, match="it serves that release"):
        verify_or_roll_back(board, bad, golden(network, -1.0), policy(key), False, quiet)


def test_a_lost_connection_is_no_wrong_network(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, network: tuple[bytes, Path, Any]
) -> None:
    for built in (1, 2):
        push(board, release(tmp_path, network[0] + b"\x72\x00" * built, built=built), policy(key), quiet)
    new = release(tmp_path, network[0] + b"\x72\x00" * 2, built=2)
    with pytest.raises(ConnectionLost):
        verify_or_roll_back(Frail(board, 1, []), new, golden(network), policy(key), True, quiet)
    assert served(root, key.public) == new.binary.path.read_bytes()


def test_one_number_tells_a_wrong_network_from_rounding() -> None:
    two = [[0.1, -0.1], [-3.0, 3.0], [2.0, -2.0]]
    rounded = [[-0.1, 0.1], [-3.1, 2.9], [2.1, -2.0]]
    assert self_check(two, rounded).holds and self_check(two, rounded).same == 2
    assert not self_check(two, [[-a, -b] for a, b in two]).holds
    assert self_check([[1.0, 1.0]], [[1.0, 1.0]]).deviation == 0 and not self_check([[1.0, 1.0]], [[1.0, 2.0]]).holds
    with pytest.raises(ValueError, match="shape"):
        self_check(two, two[:2])
