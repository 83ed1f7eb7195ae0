"""Parsing of ``--executor``: where steps run."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from bpudeploy.errors import UsageError
from bpudeploy.run.local import Budget, LocalExecutor
from bpudeploy.run.parallel import Executor
from bpudeploy.store.shared import open_shared
from bpudeploy.store.steps import all_records

LOCAL = "local"
_OWN = re.compile(r"dask:([1-9][0-9]*)")
_ADDRESS = re.compile(r"(dask|tcp|tls)://([^/]+:[0-9]+)/?")


def open_executor(text: str | None, root: Path, budget: Budget, shared: str | None = None) -> Executor:
    """Return the executor for ``--executor``; nothing is started before its ``with``.

    Args:
        text: ``local`` (or None): processes on this machine under ``budget``; ``dask:N``: N workers on this machine,
            started and stopped with the run; ``tcp://HOST:PORT`` (or ``dask://``) or ``tls://``: a running Dask
            scheduler. Workers have their own budget.
        shared: URL of the shared store; required with a running scheduler.

    Raises:
        UsageError: ``text`` or ``shared`` is invalid, or Dask is not installed.
        StoreError: the shared store does not answer.
    """
    if shared is not None:
        shared = shared if "://" in shared else str(Path(shared).absolute())  # workers have other current folders
        open_shared(shared)  # fail early
    if text is None or text == LOCAL:
        return LocalExecutor(root, budget, all_records(root), shared)
    own, address = _OWN.fullmatch(text), _ADDRESS.fullmatch(text)
    if own is None and address is None:
        raise UsageError(
            f"{text!r} is not an executor", hint="local, dask:N, or a scheduler: tcp://HOST:PORT, tls://..."
        )
    if find_spec("distributed") is None:
        raise UsageError(f"--executor {text} needs Dask", hint="pip install 'bpudeploy[cluster]'")
    from bpudeploy.run.cluster import ClusterExecutor

    if own is not None:
        return ClusterExecutor(int(own[1]), root, shared)
    assert address is not None
    if shared is None:
        raise UsageError(
            f"the workers of {text} have their own stores",
            hint="add --shared-store with a folder that all workers mount, or s3://BUCKET/PREFIX",
        )
    protocol = "tls" if address[1] == "tls" else "tcp"
    return ClusterExecutor(f"{protocol}://{address[2]}", root, shared)
