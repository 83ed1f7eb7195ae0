"""JSON lines, the agent's one way to speak; ``is`` comes first, so that a closing line shows by its beginning."""

from __future__ import annotations

import json
import os

CLOSING = tuple(b'{"is":"%s"' % kind for kind in (b"hello", b"done", b"failed"))
"""How the lines begin after which the host may ask for something."""


def line(kind: str, **fields: object) -> bytes:
    """Return one line of the protocol.

    Raises:
        ValueError: a number is not finite; JSON has none such.
    """
    return json.dumps({"is": kind, **fields}, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Speech:
    """Writes lines to a file descriptor, each whole and at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, kind: str, **fields: object) -> None:
        left = memoryview(line(kind, **fields))
        while left:
            left = left[os.write(self._descriptor, left) :]
