"""Governors: all or none are set, and they are restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.host import BEFORE, BOOST, DEVFREQ, FAST, POLICY, FakeBoard


def full(board: FakeBoard, values: dict[str, str]) -> dict[str, str]:
    return {str(board.file(path)): value for path, value in values.items()}


def test_governors_are_set_and_restored_by_bye(board: FakeBoard) -> None:
    with board.ready() as agent:
        governors, _ = agent.done("performance")
        assert governors["refused"] is None
        assert governors["before"] == full(board, BEFORE) and governors["now"] == full(board, FAST)
        assert board.governors() == FAST and board.record.exists()
        again, _ = agent.done("performance")
        assert again == governors
        agent.done("bye")
        assert board.governors() == BEFORE, "before bye is closed"
        assert agent.process.wait(5) == 0
        assert agent.process.wait() == 0
    assert not list(board.root.iterdir())


def test_governors_are_restored_after_a_failed_command_and_disconnect(board: FakeBoard) -> None:
    with board.ready() as agent:
        agent.done("performance")
        agent.failure("round", warmup=0)
        assert board.governors() == FAST, "the agent lives on"
        agent.close_input()
        assert agent.process.wait() == 1
    assert board.governors() == BEFORE and not list(board.root.iterdir())


@pytest.mark.parametrize("path", [BOOST, f"{POLICY}4/scaling_governor", f"{DEVFREQ}/governor"])
def test_a_read_only_governor_leaves_all_unchanged(board: FakeBoard, path: str) -> None:
    """A file in /proc that not even root can write stands for the first, a middle or the last governor."""
    board.file(path).unlink()
    board.file(path).symlink_to("/proc/version")
    before = board.governors()
    with board.ready() as agent:
        governors, _ = agent.done("performance")
        assert governors["refused"].startswith(str(board.file(path))), governors
        assert governors["now"] == governors["before"] == full(board, before)
        assert not board.record.exists()
        agent.done("conditions")
        agent.bye()
    assert board.governors() == before and not list(board.root.iterdir())


def test_a_policy_without_performance_leaves_all_unchanged(board: FakeBoard) -> None:
    board.write(f"{POLICY}4/scaling_available_governors", "ondemand powersave")
    with board.ready() as agent:
        governors, _ = agent.done("performance")
        assert "policy4/scaling_governor offers ondemand, powersave" in governors["refused"]
    assert board.governors() == BEFORE


def test_a_bpu_without_performance_keeps_its_governor(board: FakeBoard) -> None:
    board.write(f"{DEVFREQ}/available_governors", "simple_ondemand userspace")
    with board.ready() as agent:
        governors, _ = agent.done("performance")
        assert governors["refused"] is None
        assert str(board.file(f"{DEVFREQ}/governor")) not in governors["before"]


def test_a_board_without_governors_is_refused(board: FakeBoard, tmp_path: Path) -> None:
    (board.under / "sys").rename(tmp_path / "elsewhere")
    with board.ready() as agent:
        governors, _ = agent.done("performance")
        assert governors == {"is": "governors", "before": {}, "now": {}, "refused": "this board has no governor"}
