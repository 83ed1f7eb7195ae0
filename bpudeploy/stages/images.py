"""Labelled images in an archive or a folder tree: listing them, and reading one."""

from __future__ import annotations

import csv
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from bpudeploy.errors import StageError
from bpudeploy.spec.recipe import Delimiter, LabelsSpec

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class Labelled:
    """A file of the source and its class index."""

    file: str
    label: int


class Files(Protocol):
    """Read access to the files of a source, by relative POSIX path."""

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, name: str) -> bytes: ...


@contextmanager
def open_files(path: Path, member: str | None) -> Iterator[Files]:
    """Open a folder, zip, wheel or tar, seen from its folder ``member``.

    Raises:
        StageError: it is none of these, or has no such folder.
    """
    prefix = f"{member.strip('/')}/" if member else ""
    if path.is_dir():
        yield _Tree(path / prefix)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _Zip(archive, prefix)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            with _reading("the archive", _PACK_AGAIN):
                files = _Tar(archive, prefix)
            yield files
    else:
        raise StageError("not a folder, zip, wheel or tar archive", hint="correct the dataset's source")


_DAMAGED = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # an encrypted zip
    NotImplementedError,  # a zip of an unknown method
)
_ALLOW, _PACK_AGAIN = "give it read permission, or remove it", "make the archive again, without a password"


@contextmanager
def _reading(what: str, fix: str) -> Iterator[None]:
    """Say what it was that could not be read, and why."""
    try:
        yield
    except _DAMAGED as error:
        raise StageError(f"cannot read {what}: {getattr(error, 'strerror', None) or error}", hint=fix) from error


class _Tree:
    def __init__(self, root: Path) -> None:
        self._root = root
        files = (p for p in root.rglob("*") if p.is_file() or not p.exists())  # a link that leads nowhere is no gap
        self.names = sorted(p.relative_to(root).as_posix() for p in files)

    def read(self, name: str) -> bytes:
        with _reading(name, _ALLOW):
            return (self._root / name).read_bytes()


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self._archive, self._prefix = archive, prefix
        files = (i.filename for i in archive.infolist() if not i.is_dir())
        self.names = sorted(n.removeprefix(prefix) for n in files if n.startswith(prefix))

    def read(self, name: str) -> bytes:
        with _reading(name, _PACK_AGAIN):
            return self._archive.read(self._prefix + name)


class _Tar:
    def __init__(self, archive: tarfile.TarFile, prefix: str) -> None:
        self._archive, self._prefix = archive, prefix
        files = (m.name.removeprefix("./") for m in archive.getmembers() if m.isfile())
        self.names = sorted(n.removeprefix(prefix) for n in files if n.startswith(prefix))

    def read(self, name: str) -> bytes:
        with _reading(name, _PACK_AGAIN):
            member = self._archive.extractfile(self._prefix + name)
            return member.read() if member else b""


def list_images(files: Files) -> list[str]:
    """Return the image files, by ending, in sorted order."""
    return [n for n in files.names if PurePosixPath(n).suffix.lower() in ENDINGS]


def list_folders(files: Files, classes: tuple[str, ...]) -> tuple[list[Labelled], tuple[str, ...]]:
    """Label an ImageFolder tree: one folder a class, sorted by name unless ``classes`` gives an order.

    Raises:
        StageError: no images, or folders that are not in ``classes``.
    """
    images = [n for n in list_images(files) if "/" in n]
    found = sorted({n.split("/")[0] for n in images})
    order = classes or tuple(found)
    if not images or not set(found) <= set(order):
        unknown = ", ".join(sorted(set(found) - set(order))[:5])
        raise StageError(
            f"folders that are not classes: {unknown}" if images else "the source holds no CLASS/IMAGE files",
            hint="an imagefolder has one folder a class; `classes:` may order them but must name them all",
        )
    return [Labelled(n, order.index(n.split("/")[0])) for n in images], order


def list_csv(files: Files, spec: LabelsSpec, classes: tuple[str, ...]) -> tuple[list[Labelled], tuple[str, ...]]:
    """Label the files that a CSV names; paths in it are relative to its own folder.

    Raises:
        StageError: no such label file, a row too short, a label that is no class, a file that is missing.
    """
    if spec.file not in files.names:
        raise StageError(f"the source has no label file {spec.file!r}", hint="labels.file is relative to the source")
    folder = PurePosixPath(spec.file).parent
    rows = _rows(files.read(spec.file), spec)
    labels = [(n, (folder / image).as_posix(), value) for n, image, value in rows]
    order = classes or tuple(sorted({value for _, _, value in labels}))
    known = set(files.names)
    listed = []
    for number, image, value in labels:
        if image not in known:
            raise StageError(
                f"{spec.file}:{number}: no file {image!r} in the source", hint="correct labels.image_column"
            )
        listed.append(Labelled(image, _label(value, spec, order, number)))
    return listed, order


def _rows(data: bytes, spec: LabelsSpec) -> Iterator[tuple[int, str, str]]:
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    rows: Iterator[list[str]]
    if spec.delimiter is Delimiter.WHITESPACE:
        rows = (line.split() for line in text)
    else:
        rows = csv.reader(text, delimiter="," if spec.delimiter is Delimiter.COMMA else "\t")
    last = max(spec.image_column, spec.label_column)
    for number, row in enumerate(rows, 1):
        if not row or (number == 1 and spec.header):
            continue
        if len(row) <= last:
            raise StageError(
                f"{spec.file}:{number}: {len(row)} columns, column {last} is wanted", hint="check delimiter"
            )
        yield number, row[spec.image_column], row[spec.label_column]


def _label(value: str, spec: LabelsSpec, order: tuple[str, ...], number: int) -> int:
    if spec.threshold is not None:
        try:
            return int(float(value) >= spec.threshold)
        except ValueError as error:
            raise StageError(
                f"{spec.file}:{number}: label {value!r} is not a number", hint="threshold wants numeric labels"
            ) from error
    if value not in order:
        raise StageError(f"{spec.file}:{number}: label {value!r} is no class", hint=f"classes: {', '.join(order[:10])}")
    return order.index(value)
