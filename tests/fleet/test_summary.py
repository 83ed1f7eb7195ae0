"""The summary of a rollout: its keys stay, and it does not reveal how a board is reached."""

from __future__ import annotations

import json

import pytest

from bpudeploy.fleet.events import RolloutPlanned
from bpudeploy.fleet.summary import to_json
from tests.fleet import journals

KEYS = (
    *("format", "rollout", "recipe", "by", "planned_at", "last_at", "seconds", "phase", "result", "why", "failures"),
    *("bytes_sent", "states", "waves", "boards"),
)
OF_BOARD = (
    *("board", "target", "wave", "state", "failed", "release", "before", "serves", "changed", "tries", "seconds"),
    *("bytes_sent", "detail"),
)


@pytest.mark.parametrize("name", journals.EVERY)
def test_its_keys_are_those_that_are_documented(name: str) -> None:
    found = json.loads(json.dumps(to_json(journals.EVERY[name]())))
    assert tuple(found) == KEYS
    assert all(tuple(board) == OF_BOARD for board in found["boards"])
    assert sum(found["states"].values()) == len(found["boards"])
    in_waves = [board for board in found["boards"] if board["wave"] is not None]
    assert sum(wave["boards"] for wave in found["waves"]) == len(in_waves)
    assert found["bytes_sent"] == sum(board["bytes_sent"] for board in found["boards"])
    text = to_json.__doc__ or ""
    assert all(key in text for key in KEYS + OF_BOARD)


def test_it_says_what_each_board_came_to() -> None:
    found = to_json(journals.troubled())
    assert (found["result"], found["phase"], found["failures"]) == ("incomplete", "finished", 1)
    boards = {board["board"]: board for board in json.loads(json.dumps(found["boards"]))}
    one = boards["x5-lab2-001"]
    assert (one["state"], one["tries"], one["bytes_sent"]) == ("done", 2, 24_100_000)
    assert one["serves"] == one["release"] != one["before"]
    assert boards["x5-lab3-002"]["serves"] is None
    assert boards["x5-lab2-007"]["wave"] is None


def test_a_running_rollout_has_no_result() -> None:
    found = to_json(journals.running())
    assert (found["result"], found["why"], found["phase"]) == (None, None, "running")
    assert "updating" in json.dumps(found["states"])


@pytest.mark.parametrize("name", journals.EVERY)
def test_how_a_board_is_reached_is_in_none_of_it(name: str) -> None:
    events = journals.EVERY[name]()
    assert isinstance(events[0], RolloutPlanned)
    boards = [{**board, "detail": ""} for board in json.loads(json.dumps(to_json(events)["boards"]))]
    text = json.dumps(to_json(events) | {"boards": boards})
    assert not any(p.address in text or str(p.board_id) in text for p in events[0].places)
