"""trust: install the public key whose releases a board may activate."""

from __future__ import annotations

import secrets
from enum import StrEnum

from bpudeploy.boards.base import Board
from bpudeploy.effects.script import Script, run_script
from bpudeploy.signing import PublicKey

STEP = "trust"


class TrustMode(StrEnum):
    """What to do with keys that the board already trusts."""

    FIRST = "first"  # fail if it trusts another key
    ADD = "add"
    REPLACE = "replace"


def trust(board: Board, key: PublicKey, how: TrustMode = TrustMode.FIRST) -> bool:
    """Have ``board`` trust ``key``; return False if it already did.

    Trusted keys are listed in ``keys/allowed_signers`` under the board's root. This protects against damaged, foreign
    and mixed-up releases, not against somebody with the board's login.

    Raises:
        BoardError: it trusts another key (``how`` is FIRST), has no ssh-keygen, or cannot be written.
    """
    output = run_script(board, Script.TRUST, [key.allowed_signer, how, secrets.token_hex(4)], step=STEP)
    if "verifier" in output:
        raise output.error(
            "the key is installed, but the board has no ssh-keygen to verify releases with",
            "install openssh-client 8.1 or newer there, or turn signing off in the target: board.signed: false",
        )
    return "installed" in output.all("state")
