"""Which git commit files are of, and checkouts of other commits beside the user's own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 60


def commit_of(files: Sequence[Path]) -> str | None:
    """Return the commit that ``files`` (of one repository) are of, with ``+changes`` where they differ from it.

    None: they are in no repository, or there is no git.
    """
    if not files:
        return None
    folder = files[0].resolve().parent
    head = git(folder, "rev-parse", "--verify", "HEAD")
    if head is None:
        return None
    changed = git(folder, "status", "--porcelain", "--untracked-files=all", "--", *(str(f.resolve()) for f in files))
    return head.strip() + ("+changes" if changed is None or changed.strip() else "")


def git(folder: Path, *words: str) -> str | None:
    """Return what git prints in ``folder``; None where it refuses, or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
