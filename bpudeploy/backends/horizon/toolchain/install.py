"""Install and remove the toolchain. The record is written last: without it there is no toolchain."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bpudeploy.backends.check import example_inputs
from bpudeploy.backends.horizon import hb_mapper
from bpudeploy.backends.horizon.process import run_checked
from bpudeploy.backends.horizon.tool import Command, local_tool
from bpudeploy.backends.horizon.toolchain import torch_names
from bpudeploy.backends.horizon.toolchain.installed import (
    RECORD,
    Toolchain,
    clean_environment,
    folder,
    installed,
    lock_digest,
    lock_text,
)
from bpudeploy.backends.horizon.toolchain.python310 import check_machine, find_python
from bpudeploy.errors import StoreError, UsageError
from bpudeploy.events import Event, Note, Progress
from bpudeploy.files import Locked, locked
from bpudeploy.spec.compile_options import HbMapperOptions, OptimizeLevel
from bpudeploy.stage import StepContext

STEP = "toolchain"
DOWNLOAD_MB, INSTALLED_MB = 230, 790
"""Measured on 2026-11-30: pip's downloads for the lock file, and the size that `show` prints."""
_NEEDED_BYTES = 1_300_000_000
_LIMIT_S = 3600.0
_PACKAGE = re.compile(r"Collecting (\S+)")
_MARCH = "bayes-e"

Emit = Callable[[Event], None]


def install(python: Path | None, emit: Emit) -> tuple[Toolchain, bool]:
    """Return the toolchain, and whether it was installed now; one from an older lock file is replaced.

    It is installed with pip as configured on this machine (mirror, proxy), every package pinned by sha256, and tested
    by compiling a network of one convolution. A failure or Ctrl-C removes an incomplete installation.

    Raises:
        UsageError: unsupported machine, no CPython 3.10, or another process is installing.
        StoreError: no space, or the folder is not writable.
        StageError: pip fails, or the test compilation does.
    """
    check_machine()
    base, version = find_python(python)
    with _locked() as root:
        found = installed()
        if found is not None and found.lock == lock_digest():
            return found, False
        _clear(root)
        _check_space(root)
        emit(Note(STEP, f"CPython {version} from {base}"))
        emit(Note(STEP, f"into {root}: {DOWNLOAD_MB} MB to download, {INSTALLED_MB} MB on the disk"))
        try:
            _install_packages(root, base, emit)
            made = _test(root, version, emit)
            (root / RECORD).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except BaseException:
            _clear(root)
            raise
    return made, True


def remove() -> int | None:
    """Remove the toolchain and return its size in bytes; None if there is none.

    Raises:
        UsageError: another process is installing.
        StoreError: it cannot be removed.
    """
    if not folder().exists():
        return None
    with _locked() as root:
        size = _size(root)
        _clear(root)
    shutil.rmtree(root, ignore_errors=True)
    return size


@contextmanager
def _locked() -> Iterator[Path]:
    """Lock the toolchain's folder, created if missing: one process installs or removes at a time."""
    root = folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / "lock").touch()
    except OSError as error:
        raise StoreError(
            f"cannot write {root}: {error.strerror}", hint="set BPUDEPLOY_TOOLCHAIN to a folder"
        ) from error
    try:
        with locked(root / "lock"):
            yield root
    except Locked as error:
        raise UsageError(
            f"another process is installing or removing the toolchain in {root}", hint="wait until it has ended"
        ) from error


def _clear(root: Path) -> None:
    """Remove everything but the lock; the record first, so that no incomplete toolchain is used."""
    (root / RECORD).unlink(missing_ok=True)
    if (root / "env").exists():
        try:
            shutil.rmtree(root / "env")
        except OSError as error:
            raise StoreError(f"cannot remove {root / 'env'}: {error.strerror}", hint="remove it by hand") from error


def _check_space(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < _NEEDED_BYTES:
        raise StoreError(
            f"{root} has {free / 1e9:.1f} GB free, and the installation needs {_NEEDED_BYTES / 1e9:.1f} GB",
            hint="free space, or set BPUDEPLOY_TOOLCHAIN to a folder on another disk",
        )


def _install_packages(root: Path, base: Path, emit: Emit) -> None:
    """Create the environment, and install every package of the lock file."""
    env = root / "env"
    _run((str(base), "-m", "venv", str(env)), root, emit, "its module venv; on Debian: apt install python3.10-venv")
    lock = root / "lock.txt"
    lock.write_text(lock_text(), encoding="utf-8")
    pip = (str(env / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install")
    exact = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "-r", str(lock))
    _run((*pip, *exact), root, emit, "the package index, its proxy and the space on the disk")
    lock.unlink()
    site = next((env / "lib").glob("python3.10/site-packages"))
    shutil.copyfile(str(torch_names.__file__), site / "torch.py")


def _run(argv: tuple[str, ...], root: Path, emit: Emit, check: str) -> None:
    """Run a command of the installation, with pip's packages as progress.

    Raises:
        StageError: it fails; the message has its last lines, the hint ``check``.
    """
    total, packages = lock_text().count("=="), set[str]()

    def on_line(line: str) -> None:
        if found := _PACKAGE.match(line):
            packages.add(found[1])
            emit(Progress(STEP, len(packages), total, "packages"))
        elif line.startswith("Installing collected packages"):
            emit(Note(STEP, f"{total} packages downloaded; pip installs them"))

    run_checked(
        Command(argv, environment=clean_environment()),
        root,
        _LIMIT_S,
        f"{Path(argv[0]).name} {' '.join(argv[1:4])}",
        f"check {check}",
        on_line,
        lambda line: line.strip() and not line.startswith("WARNING: Location"),
    )


def _test(root: Path, python: str, emit: Emit) -> Toolchain:
    """Compile a network of one convolution; return the toolchain with the versions that it reports."""
    made = Toolchain(lock=lock_digest(), python=python, versions={}, size=0, folder=str(root))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "work"
        work.mkdir()
        tool = local_tool(made, {}, "of this installation")
        options = HbMapperOptions(optimize_level=OptimizeLevel.O0, minutes=10)
        inputs = example_inputs(Path(name), _MARCH)
        _, report = hb_mapper.compile_with(tool, StepContext(work, lambda event: None), inputs, options)
    versions = {k: v for k, v in report.versions.items() if k in ("hb_mapper", "hbdk", "horizon_nn")}
    emit(Note(STEP, f"a network of one convolution compiles for {_MARCH} in {time.monotonic() - started:.1f} s"))
    return made.model_copy(update={"versions": versions, "size": _size(root)})


def _size(root: Path) -> int:
    """Return the size on disk in bytes."""
    return sum(512 * path.lstat().st_blocks for path in root.rglob("*"))
