"""The drivers' tests run on fake boards: tests/fakes/board."""

from __future__ import annotations

from tests.fakes.board.fixtures import fake_board as fake_board
