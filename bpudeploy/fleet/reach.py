"""How a board of the inventory is reached, and whether it is the one that is meant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Protocol

from bpudeploy.boards.address import Address
from bpudeploy.boards.base import Board
from bpudeploy.boards.facts import read_facts
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.spec.target import BoardSpec


class Listed(Protocol):
    """What an inventory says of where a board is."""

    @property
    def address(self) -> str: ...

    @property
    def jump(self) -> str | None: ...

    @property
    def root(self) -> str | None: ...

    @property
    def board_id(self) -> str | None: ...


def opener(name: str, listed: Listed, spec: BoardSpec) -> Callable[[], AbstractContextManager[Board]]:
    """Return what opens a board of the inventory; connects to nothing yet."""
    jump = Address.parse(listed.jump) if listed.jump is not None else None
    address = Address.parse(listed.address)
    root = PurePosixPath(listed.root or spec.root)
    return lambda: open_ssh(address, name=name, python=spec.python, root=root, jump=jump)


def require_identity(board: Board, listed: Listed) -> None:
    """Refuse another board than the one that the inventory names, where it names one.

    Raises:
        BoardError: another serial number answers at this address.
    """
    if listed.board_id is None:
        return
    found = read_facts(board).soc_uid
    if found is None or found.lower() != listed.board_id.lower().removeprefix("0x"):
        raise BoardError(
            f"its serial number is {found}, the inventory says {listed.board_id}",
            board=board.name,
            step="connect",
            hint="another board has this address: correct the inventory, or the network",
        )
