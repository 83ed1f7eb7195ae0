"""Objects by sha256: renamed into place, read-only, immutable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpudeploy.digest import Digest, digest_file
from bpudeploy.errors import StoreError
from bpudeploy.files import sync


def default_root() -> Path:
    """Return $BPUDEPLOY_STORE, otherwise bpudeploy's folder in the user's cache directory."""
    if chosen := os.environ.get("BPUDEPLOY_STORE"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "bpudeploy"


@contextmanager
def storing(what: Path) -> Iterator[None]:
    """Turn an OSError of the file system into a StoreError that names ``what``."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {what}: {error.strerror}", hint="check its space and permissions, or name another --store"
        ) from error


def object_path(root: Path, digest: Digest) -> Path:
    """Return the path of an object, whether or not it exists."""
    return root / "objects" / digest[:2] / digest[2:]


def add_object(root: Path, source: Path) -> Digest:
    """Move the file ``source``, on the store's file system, into the store.

    Raises:
        StoreError: the store cannot be written.
    """
    digest = digest_file(source)
    path = object_path(root, digest)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sync(source)
        source.chmod(0o444)
        source.replace(path)  # equal bytes replace equal bytes
        sync(path.parent)
    return digest


def object_digests(root: Path) -> list[Digest]:
    """Return the digests of all objects, sorted."""
    return sorted(Digest(p.parent.name + p.name) for p in (root / "objects").glob("??/*"))


def remove_object(root: Path, digest: Digest) -> None:
    """Remove an object if it exists."""
    with storing(object_path(root, digest)):
        object_path(root, digest).unlink(missing_ok=True)


def check_object(root: Path, digest: Digest) -> bool:
    """Return whether an object's bytes still match its digest. Reads all of them.

    Raises:
        StoreError: the object does not exist.
    """
    path = object_path(root, digest)
    if not path.is_file():
        raise StoreError(f"the store has no object {digest}", hint="run the recipe again to rebuild it")
    return digest_file(path) == digest
