"""Running git: the commit of files, and git commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def commit_of(files: Sequence[Path]) -> str | None:
    """Return the commit of ``files`` (in one repository), with ``+changes`` if they differ from it.

    None if they are not in a repository, or git is not installed.
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
    """Return git's output in ``folder``; None if it fails or is not installed."""
    try:
        done = run_git(folder, *words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def run_git(folder: Path, *words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run git in ``folder``, without prompts and localisation.

    Raises:
        OSError: git is not installed.
        subprocess.TimeoutExpired: it took longer.
    """
    return subprocess.run(
        ["git", "-C", str(folder), *words],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        env={**os.environ, "LC_ALL": "C"},
    )
