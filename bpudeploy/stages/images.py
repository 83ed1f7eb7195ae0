"""Listing and reading the labelled images of an archive or folder."""

from __future__ import annotations

import csv
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bpudeploy.errors import StageError
from bpudeploy.spec.recipe import Delimiter, LabelsSpec

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class LabelledFile:
    """A file of the source and its class index."""

    file: str
    label: int


_READ_ERRORS = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # an encrypted zip
    NotImplementedError,  # an unknown zip compression method
)
_READ_PERMISSION, _REPACK = "grant read permission, or remove the file", "create the archive again, without a password"


@contextmanager
def _reading(what: str, hint: str) -> Iterator[None]:
    """Turn errors of damaged or unreadable files into StageErrors."""
    try:
        yield
    except _READ_ERRORS as error:
        raise StageError(f"cannot read {what}: {getattr(error, 'strerror', None) or error}", hint=hint) from error


@dataclass(frozen=True)
class Files:
    """Read access to the files of a source, by relative POSIX path."""

    names: Sequence[str]
    _read: Callable[[str], bytes]
    _hint: str

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            StageError: it cannot be read.
        """
        with _reading(name, self._hint):
            return self._read(name)


@contextmanager
def open_files(path: Path, member: str | None) -> Iterator[Files]:
    """Open a folder, zip, wheel or tar; names are relative to its folder ``member``.

    Raises:
        StageError: it is none of these, or a tar archive is damaged.
    """
    prefix = f"{member.strip('/')}/" if member else ""
    if path.is_dir():
        root = path / prefix
        files = (p for p in root.rglob("*") if p.is_file() or not p.exists())  # reading a dangling link is an error
        names = sorted(p.relative_to(root).as_posix() for p in files)
        yield Files(names, lambda name: (root / name).read_bytes(), _READ_PERMISSION)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = (i.filename for i in archive.infolist() if not i.is_dir())
            yield Files(_below(members, prefix), lambda name: archive.read(prefix + name), _REPACK)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            with _reading("the archive", _REPACK):
                names = _below((m.name.removeprefix("./") for m in tar.getmembers() if m.isfile()), prefix)
            yield Files(names, lambda name: _read_member(tar, prefix + name), _REPACK)
    else:
        raise StageError("not a folder, zip, wheel or tar archive", hint="correct the dataset's source")


def _below(members: Iterable[str], prefix: str) -> list[str]:
    return sorted(name.removeprefix(prefix) for name in members if name.startswith(prefix))


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    return member.read() if member else b""


def list_images(files: Files) -> list[str]:
    """Return the files with an image ending, sorted."""
    return [n for n in files.names if PurePosixPath(n).suffix.lower() in ENDINGS]


def list_folders(files: Files, classes: tuple[str, ...]) -> tuple[list[LabelledFile], tuple[str, ...]]:
    """Label an ImageFolder tree: one folder per class, in the order of ``classes`` if given, otherwise by name.

    Raises:
        StageError: there are no images, or folders that are not in ``classes``.
    """
    images = [n for n in list_images(files) if "/" in n]
    found = sorted({n.split("/")[0] for n in images})
    order = classes or tuple(found)
    if not images or not set(found) <= set(order):
        unknown = ", ".join(sorted(set(found) - set(order))[:5])
        message = f"folders that are not classes: {unknown}" if images else "the source contains no CLASS/IMAGE files"
        raise StageError(message, hint="an imagefolder has one folder per class; `classes:` must list them all")
    return [LabelledFile(n, order.index(n.split("/")[0])) for n in images], order


def list_csv(files: Files, spec: LabelsSpec, classes: tuple[str, ...]) -> tuple[list[LabelledFile], tuple[str, ...]]:
    """Label the files listed in a CSV; paths are relative to its folder.

    Raises:
        StageError: the label file or an image is missing, a row is too short, or a label is unknown.
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
            text = f"{spec.file}:{number}: no file {image!r} in the source"
            raise StageError(text, hint="correct labels.image_column")
        listed.append(LabelledFile(image, _label(value, spec, order, number)))
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
            message = f"{spec.file}:{number}: {len(row)} columns, column {last} is missing"
            raise StageError(message, hint="check labels.delimiter")
        yield number, row[spec.image_column], row[spec.label_column]


def _label(value: str, spec: LabelsSpec, order: tuple[str, ...], number: int) -> int:
    if spec.threshold is not None:
        try:
            return int(float(value) >= spec.threshold)
        except ValueError as error:
            text = f"{spec.file}:{number}: label {value!r} is not a number"
            raise StageError(text, hint="labels.threshold requires numeric labels") from error
    if value not in order:
        text = f"{spec.file}:{number}: label {value!r} is not a class"
        raise StageError(text, hint=f"classes: {', '.join(order[:10])}")
    return order.index(value)
