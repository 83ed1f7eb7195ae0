"""trust: a board is told, once and explicitly, whose releases it may activate."""

from __future__ import annotations

import secrets
from enum import StrEnum

from bpudeploy.boards.base import Board
from bpudeploy.effects.script import Script, ask
from bpudeploy.errors import BoardError
from bpudeploy.signing import PublicKey

STEP = "trust"


class Trust(StrEnum):
    """What becomes of keys that a board trusts already."""

    FIRST = "first"  # there must be none but this one
    ADD = "add"
    REPLACE = "replace"


def trust(board: Board, key: PublicKey, how: Trust = Trust.FIRST) -> bool:
    """Have ``board`` trust ``key``; returns whether that is new to it.

    The list is ``keys/allowed_signers`` under the board's root. Whoever can write there can change it: it guards
    against a damaged, foreign or mixed-up release, not against somebody who has the board's login.

    Raises:
        BoardError: it trusts another key (``how`` is FIRST), has nothing to verify with, or cannot be written.
    """
    facts = ask(board, Script.TRUST, [str(board.root), key.allowed_signer, how, secrets.token_hex(4)], step=STEP)
    if "verifier" in facts:
        raise BoardError(
            "it has no ssh-keygen to verify with; the key is there all the same",
            board=board.name,
            step=STEP,
            hint="install openssh-client 8.1 or newer there, or turn signing off in the target: board.signed: false",
        )
    return "installed" in facts.all("state")
