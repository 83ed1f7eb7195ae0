"""What verbs that build have in common: the budget of this machine, and where the shared store is."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.errors import UsageError

if TYPE_CHECKING:
    from bpudeploy.run.local import Budget

_SHARE = 0.8
"""Of the memory that is free, what a farm takes when it is not told."""


def budget(args: Namespace, plans: int) -> Budget:
    """Return how many steps may run at once here, and the memory for them.

    Raises:
        UsageError: --jobs or --memory is no number of processes or of GiB, or is not this machine's to give.
    """
    from bpudeploy.run.executors import LOCAL
    from bpudeploy.run.local import Budget

    if args.executor not in (None, LOCAL) and (args.jobs or args.memory):
        raise UsageError(
            "--jobs and --memory are of this machine, and workers have their own",
            hint="start as many workers as there are to be steps at once",
        )
    jobs, memory = args.jobs or min(plans, os.cpu_count() or 1), args.memory
    if jobs < 1 or (memory is not None and memory <= 0):
        raise UsageError("--jobs and --memory are 1 or more, and above 0", hint="--jobs 2 --memory 8")
    return Budget(jobs, memory * 2**30 / 1e6 if memory else _SHARE * _free_mb())


def shared_store(args: Namespace) -> str | None:
    """Return the URL of the store that machines share, from the command line or the environment."""
    url: str | None = args.shared_store or os.environ.get("BPUDEPLOY_SHARED_STORE")
    return url or None


def _free_mb() -> float:
    """Return MemAvailable in MB (10^6 bytes); what there is in all where Linux does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
