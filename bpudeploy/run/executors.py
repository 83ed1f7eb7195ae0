"""Where steps run, from what a user writes: the one place that turns ``--executor`` into an Executor."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from bpudeploy.errors import UsageError
from bpudeploy.run.farm import Executor
from bpudeploy.run.local import Budget, LocalExecutor
from bpudeploy.store.shared import open_shared
from bpudeploy.store.steps import all_records

LOCAL = "local"
_OWN = re.compile(r"dask:([1-9][0-9]*)")
_ADDRESS = re.compile(r"(dask|tcp|tls)://([^/]+:[0-9]+)/?")


def open_executor(text: str | None, root: Path, budget: Budget, shared: str | None = None) -> Executor:
    """Return what runs the steps of plans; nothing is started before its ``with``.

    Args:
        text: ``local`` (also None): processes of this machine under ``budget``; ``dask:N``: N workers here, started
            and stopped with the run; ``dask://HOST:PORT``, the same as ``tcp://``, or ``tls://``: a Dask scheduler
            that runs already. Workers have their own budget.
        shared: the URL of the store that machines share. Workers of others' schedulers need one.

    Raises:
        UsageError: ``text`` or ``shared`` is no such thing, or what it needs is not installed.
        StoreError: the shared store does not answer.
    """
    if shared is not None:
        shared = _absolute(shared)
        open_shared(shared)  # before anything begins
    if text is None or text == LOCAL:
        return LocalExecutor(root, budget, all_records(root), shared)
    own, address = _OWN.fullmatch(text), _ADDRESS.fullmatch(text)
    if own is None and address is None:
        raise UsageError(f"{text!r} is no executor", hint="local, dask:N, or a scheduler: tcp://HOST:PORT, tls://...")
    if find_spec("distributed") is None:
        raise UsageError(f"--executor {text} needs Dask", hint="pip install 'bpudeploy[cluster]'")
    from bpudeploy.run.cluster import ClusterExecutor, Scheduler, Workers

    if own is not None:
        return ClusterExecutor(Workers(int(own[1])), root, shared)
    assert address is not None
    if shared is None:
        raise UsageError(
            f"the workers of {text} have stores of their own",
            hint="add --shared-store: a folder that all of them mount, or s3://BUCKET/PREFIX",
        )
    protocol = "tls" if address[1] == "tls" else "tcp"
    return ClusterExecutor(Scheduler(f"{protocol}://{address[2]}"), root, shared)


def _absolute(shared: str) -> str:
    """Return a folder's whole path: a worker's current folder is another."""
    return shared if "://" in shared else str(Path(shared).absolute())
