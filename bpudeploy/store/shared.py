"""A store shared by several machines, through fsspec: a folder or bucket with objects by digest and records by key.

Every object is hashed on arrival, so damaged bytes are never used. Records are trusted: whoever can write them
determines the outputs of a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from bpudeploy.digest import Digest, Key, digest_file
from bpudeploy.errors import BpudeployError, StoreError, UsageError
from bpudeploy.store.objects import add_object, object_path
from bpudeploy.store.steps import Record, keep_record, record_of, record_path, record_text

_FILE_SYSTEM_OPTIONS = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}}
}


class ReadOnly(StoreError):
    """This account has no write access to the shared store."""


@dataclass(frozen=True)
class SharedStore:
    """``files`` is an fsspec file system, ``base`` the store's path in it, without a trailing slash."""

    url: str
    files: Any
    base: str

    @property
    def folder(self) -> bool:
        """Whether it is a local folder, where atomic writes need a temporary file and a rename."""
        return "file" in self.files.protocol

    def path(self, path: Path) -> str:
        """Return the path in the file system of ``path``, which is relative to a store."""
        return f"{self.base}/{path.as_posix()}"


def open_shared(url: str) -> SharedStore:
    """Return the shared store at a folder, ``file://FOLDER``, ``s3://BUCKET[/PREFIX]`` or another fsspec URL.

    The folder or bucket must exist, to catch mistyped names. Credentials come from the environment, as usual for the
    file system (for S3: as for the AWS tools).

    Raises:
        UsageError: it does not exist, or a required package is not installed.
        StoreError: it does not respond, or denies access.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageError("a shared store requires fsspec", hint="pip install 'bpudeploy[cluster]'") from error
    try:
        options = _FILE_SYSTEM_OPTIONS.get(url.split(":")[0], {})
        files, base = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError as error:
        raise UsageError(f"{url}: {error}", hint="for s3://: pip install 'bpudeploy[s3]'") from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}", hint="a folder, or s3://BUCKET/PREFIX") from error
    shared = SharedStore(url, files, base.rstrip("/"))
    root = shared.base if shared.folder else shared.base.split("/")[0]
    if not root:
        raise UsageError(f"{url} names neither a folder nor a bucket", hint="a folder, or s3://BUCKET/PREFIX")
    try:
        with store_errors(shared):
            files.info(root)
    except FileNotFoundError as error:
        raise UsageError(f"the shared store {url} does not exist", hint=f"create or mount {root}") from error
    return shared


@contextmanager
def store_errors(shared: SharedStore, *, writing: bool = False) -> Iterator[None]:
    """Turn exceptions of the file system into StoreErrors, except FileNotFoundError and FileExistsError.

    Raises:
        ReadOnly: write access is denied.
        StoreError: the store does not respond, or denies access.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, BpudeployError):
        raise
    except PermissionError as error:
        if writing:
            raise ReadOnly(f"no write access to {shared.url}", hint="check the permissions of the account") from error
        hint = "check the credentials in this machine's environment; they must allow reading and listing"
        raise StoreError(f"the shared store {shared.url} denies access: {error}", hint=hint) from error
    except Exception as error:  # each file system raises its own
        message = f"the shared store {shared.url} does not respond: {error or type(error).__name__}"
        hint = "finished steps are in the local store; run without --shared-store to continue from there"
        raise StoreError(message, hint=hint) from error


def fetch(shared: SharedStore, root: Path, key: Key) -> Record | None:
    """Copy a key's record and its objects into the store at ``root``; None if they are missing or damaged.

    Raises:
        StoreError: the shared store cannot be read, or the local one not written.
    """
    record = _record(shared, key)
    if record is None or not all(fetch_object(shared, root, o.digest, o.size) for o in record.outputs):
        return None
    keep_record(root, record)
    return record


def fetch_object(shared: SharedStore, root: Path, digest: Digest, size: int | None = None) -> bool:
    """Copy an object into the store at ``root`` and return whether it is there now.

    An object whose bytes do not match its digest is removed from the shared store, so that it is shared again.

    Raises:
        StoreError: the shared store cannot be read, or the local one not written.
    """
    path = object_path(root, digest)
    with suppress(FileNotFoundError):
        if size in (None, path.stat().st_size):
            return True
    temporary = root / "work" / f"fetch.{digest}.{uuid4().hex}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    remote = _object(shared, digest)
    try:
        with store_errors(shared):
            shared.files.get_file(remote, str(temporary))
        if digest_file(temporary) == digest:
            add_object(root, temporary)
            return True
        with suppress(StoreError, FileNotFoundError), store_errors(shared, writing=True):
            shared.files.rm_file(remote)
        return False
    except FileNotFoundError:
        return False
    finally:
        temporary.unlink(missing_ok=True)


def share(shared: SharedStore, root: Path, record: Record, *, replace: bool = False) -> Record:
    """Copy a record and its objects to the shared store, the record last; return the valid record of its key.

    That is the first record of the key, whose objects are then in the local store too; with ``replace`` it is ours.

    Raises:
        StoreError: the shared store cannot be written; ReadOnly without write access.
    """
    if _record(shared, record.key) == record:
        return record
    for output in record.outputs:
        share_object(shared, root, output.digest)
    path, text = shared.path(record_path(Path(), record.key)), record_text(record).encode()
    if not replace:
        try:
            create(shared, path, text)
            return record
        except FileExistsError:
            first = fetch(shared, root, record.key)
            if first is not None:
                return first
    write(shared, path, text)
    return record


def share_object(shared: SharedStore, root: Path, digest: Digest) -> None:
    """Copy an object of the store at ``root`` to the shared store, unless it has one of this digest and size.

    Raises:
        StoreError: the shared store cannot be written; ReadOnly without write access.
    """
    local, remote = object_path(root, digest), _object(shared, digest)
    with store_errors(shared), suppress(FileNotFoundError):
        if shared.files.info(remote)["size"] == local.stat().st_size:
            return
    with store_errors(shared, writing=True), _written(shared, remote) as path:
        shared.files.put_file(str(local), path)


def create(shared: SharedStore, path: str, data: bytes) -> None:
    """Create a small file exclusively: of several concurrent calls, one succeeds.

    Guaranteed for a folder (``O_EXCL``) and S3 (``If-None-Match``); with an S3 server that ignores the condition, each
    call succeeds and the last one's bytes remain.

    Raises:
        FileExistsError: the file exists.
        StoreError: the shared store cannot be written; ReadOnly without write access.
    """
    with store_errors(shared, writing=True):
        if shared.folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("xb") as stream:
                stream.write(data)
        else:
            shared.files.pipe_file(path, data, mode="create")


def write(shared: SharedStore, path: str, data: bytes) -> None:
    """Write a small file atomically, replacing an existing one.

    Raises:
        StoreError: the shared store cannot be written; ReadOnly without write access.
    """
    with store_errors(shared, writing=True), _written(shared, path) as target:
        shared.files.pipe_file(target, data)


def read(shared: SharedStore, path: str) -> bytes | None:
    """Return the bytes of a small file, None if it does not exist.

    Raises:
        StoreError: the shared store cannot be read.
    """
    with suppress(FileNotFoundError), store_errors(shared):
        data: bytes = shared.files.cat_file(path)
        return data
    return None


def _record(shared: SharedStore, key: Key) -> Record | None:
    data = read(shared, shared.path(record_path(Path(), key)))
    record = record_of(data) if data is not None else None
    return record if record is not None and record.key == key else None


def _object(shared: SharedStore, digest: Digest) -> str:
    return shared.path(object_path(Path(), digest))


@contextmanager
def _written(shared: SharedStore, path: str) -> Iterator[str]:
    """Yield the path to write to: in a folder a temporary file, which is then renamed to ``path``."""
    if not shared.folder:
        yield path
        return
    folder, name = path.rsplit("/", 1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    temporary = f"{folder}/.{name}.{uuid4().hex}"
    yield temporary
    shared.files.mv(temporary, path)
