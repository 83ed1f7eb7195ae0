"""Fake boards for the driver tests; see tests/fakes/board."""

from __future__ import annotations

from tests.fakes.board.fixtures import fake_board as fake_board
