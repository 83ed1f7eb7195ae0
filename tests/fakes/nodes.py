"""The figures that the fakes print of a node, made up: pure functions of its name, none computed from data."""

from __future__ import annotations

import hashlib
import os


def figure(*words: str) -> float:
    """Return a number of [0, 1) that depends on the words only."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:6], "big") / 2**48


def cosine(name: str, dtype: str, depth: float) -> float:
    """Return a plausible cosine: lower with depth, higher in int16. FAKE_HB_COSINE sets the worst."""
    worst = float(os.environ.get("FAKE_HB_COSINE", "0.97"))
    loss = (1 - worst) * depth * (0.6 + 0.4 * figure("cosine", name))
    return round(1 - loss / (50 if dtype in ("int16", "si16", "float", "f32") else 1), 6)


def threshold(name: str) -> float:
    """Return a plausible calibration threshold."""
    return 1 + 99 * figure("threshold", name) ** 2
