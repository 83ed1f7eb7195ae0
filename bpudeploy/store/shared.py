"""A store that machines share, by fsspec: a folder or a bucket with objects by digest and records by key.

It is trusted like the local store, and no more than it must be: every object is hashed when it arrives, so damaged
bytes are never used; who may write records there decides what a key gives.
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

_BUCKETS = {"s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}}}


class ReadOnly(StoreError):
    """The shared store may be read from here, not written."""


@dataclass(frozen=True)
class SharedStore:
    """Where it is. ``files`` is an fsspec file system, ``base`` the store's place in it without a slash at its end."""

    url: str
    files: Any
    base: str

    @property
    def folder(self) -> bool:
        """Whether it is a folder of this machine: written beside and renamed, where buckets replace whole objects."""
        return "file" in self.files.protocol

    def at(self, path: Path) -> str:
        """Return where ``path``, relative to a store, is in this one."""
        return f"{self.base}/{path.as_posix()}"


def open_shared(url: str) -> SharedStore:
    """Return the shared store at a folder, ``file://FOLDER``, ``s3://BUCKET[/PREFIX]`` or another of fsspec's URLs.

    The folder or bucket is there already: one that a mistyped name would make is nobody's store. Who we are comes
    from the environment, as the file system reads it (for S3: as the AWS tools do).

    Raises:
        UsageError: it is not there, or what reads it is not installed.
        StoreError: it does not answer, or does not let us in.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageError("a shared store needs fsspec", hint="pip install 'bpudeploy[cluster]'") from error
    try:
        options = _BUCKETS.get(url.split(":")[0], {})
        files, base = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError as error:
        raise UsageError(f"{url}: {error}", hint="for s3://: pip install 'bpudeploy[s3]'") from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}", hint="a folder, or s3://BUCKET/PREFIX") from error
    shared = SharedStore(url, files, base.rstrip("/"))
    root = shared.base if shared.folder else shared.base.split("/")[0]
    if not root:
        raise UsageError(f"{url} names no folder and no bucket", hint="a folder, or s3://BUCKET/PREFIX")
    try:
        with reaching(shared):
            files.info(root)
    except FileNotFoundError as error:
        raise UsageError(f"the shared store {url} is not there", hint=f"make {root} once, or mount it") from error
    return shared


@contextmanager
def reaching(shared: SharedStore, *, writing: bool = False) -> Iterator[None]:
    """Turn what a file system raises into StoreErrors; that a file is there, or is not, passes.

    Raises:
        ReadOnly: we may not write.
        StoreError: it does not answer, or we may not read.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, BpudeployError):
        raise
    except PermissionError as error:
        if writing:
            raise ReadOnly(f"we may not write to {shared.url}", hint="the account may need more rights") from error
        raise StoreError(
            f"the shared store {shared.url} does not let us in: {error}",
            hint="check the credentials in this machine's environment, and that they may read and list",
        ) from error
    except Exception as error:  # each file system has its own
        raise StoreError(
            f"the shared store {shared.url} does not answer: {error or type(error).__name__}",
            hint="what was built is in the local store; without --shared-store the run goes on from there",
        ) from error


def fetch(shared: SharedStore, root: Path, key: Key) -> Record | None:
    """Bring a key's record and its objects into the store at ``root``; None where it has no intact ones.

    Raises:
        StoreError: the shared store cannot be read, or the local one not written.
    """
    record = _record(shared, key)
    if record is None or not all(fetch_object(shared, root, o.digest, o.size) for o in record.outputs):
        return None
    keep_record(root, record)
    return record


def fetch_object(shared: SharedStore, root: Path, digest: Digest, size: int | None = None) -> bool:
    """Bring an object into the store at ``root`` and say whether it is there now.

    One whose bytes are not those of its name is removed, so that the next who makes it gives it again.

    Raises:
        StoreError: the shared store cannot be read, or the local one not written.
    """
    path = object_path(root, digest)
    with suppress(FileNotFoundError):
        there = path.stat().st_size
        if size is None or there == size:
            return True
    beside = root / "work" / f"fetch.{digest}.{uuid4().hex}"
    beside.parent.mkdir(parents=True, exist_ok=True)
    remote = _object(shared, digest)
    try:
        with reaching(shared):
            shared.files.get_file(remote, str(beside))
        if digest_file(beside) == digest:
            add_object(root, beside)
            return True
        with suppress(StoreError, FileNotFoundError), reaching(shared, writing=True):
            shared.files.rm_file(remote)
        return False
    except FileNotFoundError:
        return False
    finally:
        beside.unlink(missing_ok=True)


def share(shared: SharedStore, root: Path, record: Record, *, replace: bool = False) -> Record:
    """Give a record and its objects to the shared store, the record last; return the record that counts there.

    That is the first of its key, whose bytes are then in the local store too; with ``replace`` it is ours.

    Raises:
        StoreError: the shared store cannot be written; ReadOnly where we may not.
    """
    if _record(shared, record.key) == record:
        return record
    for output in record.outputs:
        share_object(shared, root, output.digest)
    path, text = shared.at(record_path(Path(), record.key)), record_text(record).encode()
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
    """Give an object of the store at ``root``, unless one of its name and size is there.

    Raises:
        StoreError: the shared store cannot be written; ReadOnly where we may not.
    """
    local, remote = object_path(root, digest), _object(shared, digest)
    with reaching(shared), suppress(FileNotFoundError):
        if shared.files.info(remote)["size"] == local.stat().st_size:
            return
    with reaching(shared, writing=True):
        if not shared.folder:
            shared.files.put_file(str(local), remote)
            return
        beside = _beside(remote)
        shared.files.put_file(str(local), beside)
        shared.files.mv(beside, remote)


def create(shared: SharedStore, path: str, data: bytes) -> None:
    """Write a small file that is not there yet: of several who try at once, one does.

    So a folder promises it (``O_EXCL``), and S3 (``If-None-Match``); a server that does not know the condition lets
    each of them write, the last one's bytes staying.

    Raises:
        FileExistsError: it is there.
        StoreError: the shared store cannot be written; ReadOnly where we may not.
    """
    with reaching(shared, writing=True):
        if shared.folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("xb") as stream:
                stream.write(data)
        else:
            shared.files.pipe_file(path, data, mode="create")


def write(shared: SharedStore, path: str, data: bytes) -> None:
    """Write a small file, whole, whether or not it is there.

    Raises:
        StoreError: the shared store cannot be written; ReadOnly where we may not.
    """
    with reaching(shared, writing=True):
        if not shared.folder:
            shared.files.pipe_file(path, data)
            return
        beside = _beside(path)
        shared.files.pipe_file(beside, data)
        shared.files.mv(beside, path)


def read(shared: SharedStore, path: str) -> bytes | None:
    """Return a small file's bytes, None where it is not there.

    Raises:
        StoreError: the shared store cannot be read.
    """
    with suppress(FileNotFoundError), reaching(shared):
        data: bytes = shared.files.cat_file(path)
        return data
    return None


def _record(shared: SharedStore, key: Key) -> Record | None:
    data = read(shared, shared.at(record_path(Path(), key)))
    record = record_of(data.decode(errors="replace")) if data is not None else None
    return record if record is not None and record.key == key else None


def _object(shared: SharedStore, digest: Digest) -> str:
    return shared.at(object_path(Path(), digest))


def _beside(path: str) -> str:
    folder, name = path.rsplit("/", 1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return f"{folder}/.{name}.{uuid4().hex}"
