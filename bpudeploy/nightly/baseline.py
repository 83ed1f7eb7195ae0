"""Pinned baselines, in git: a file a job, with the release that others are held against, and its figures."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bpudeploy.errors import UsageError
from bpudeploy.files import write_atomically
from bpudeploy.nightly.metrics import Metric, invalid
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Answers, Measurement
from bpudeploy.store.objects import storing

SESSIONS = 20
"""Of each board, the latest, that a baseline keeps: their spread is what a night is held against."""
_DIGITS = 5


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Session(_Value):
    """One benchmark of the pinned release."""

    made: str
    p50_ms: float | None
    p99_ms: float | None
    memory_mb: float | None

    def of(self, metric: Metric) -> float | None:
        """Return a figure of the board's; None where it was not measured."""
        values = {Metric.P50: self.p50_ms, Metric.P99: self.p99_ms, Metric.MEMORY: self.memory_mb}
        return values.get(metric)


class OfBoard(_Value):
    """What one board showed of the pinned release, the oldest session first."""

    board: str
    device: str
    runtime: str
    sessions: tuple[Session, ...]


class Accuracy(_Value):
    """Which images of the evaluation set the pinned release gets right."""

    samples: str
    """Digest of the images and labels."""
    images: int
    top1: float
    right: str
    """A bit an image, the first in the highest bit, deflated, in base64."""

    @property
    def answers(self) -> tuple[bool, ...]:
        """Whether each image's best class is its label.

        Raises:
            UsageError: ``right`` is not what ``update`` wrote.
        """
        try:
            packed = zlib.decompress(base64.b64decode(self.right, validate=True))
        except (binascii.Error, zlib.error) as error:
            raise UsageError(f"a baseline's answers cannot be read: {error}", hint=_AGAIN) from error
        if len(packed) != (self.images + 7) // 8:
            raise UsageError(f"a baseline has answers to {self.images} images in {len(packed)} bytes", hint=_AGAIN)
        import numpy as np

        return tuple(map(bool, np.unpackbits(np.frombuffer(packed, np.uint8), count=self.images)))


class Baseline(_Value):
    """A file of the baselines' folder."""

    schema_version: int = 1
    job: str
    release: str
    pinned: str
    """UTC, ISO 8601: changes of before are accepted."""
    why: str
    commit: str | None
    size_mb: float | None
    compile_seconds: tuple[float, ...]
    """Of every time that it was compiled."""
    accuracy: Accuracy | None
    boards: Mapping[str, OfBoard]
    """By ``board_id``."""


_AGAIN = "take the file from git again, or pin anew with `bpudeploy baseline update`"


def baseline_file(folder: Path, job: str) -> Path:
    """Return the file of a job's baseline, whether or not it is there."""
    return folder / f"{job}.json"


def read_baseline(folder: Path, job: str) -> Baseline | None:
    """Return a job's baseline; None where it has none.

    Raises:
        UsageError: its file is not one.
    """
    path = baseline_file(folder, job)
    try:
        found = Baseline.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}: {where}: {first['msg']}" if where else f"{path}: {first['msg']}", hint=_AGAIN
        ) from error
    if found.job != job:
        raise UsageError(f"{path} is the baseline of {found.job}", hint=_AGAIN)
    return found


def write_baseline(folder: Path, baseline: Baseline) -> Path:
    """Write a baseline, one field a line, so that a review sees what changed; return its file."""
    path = baseline_file(folder, baseline.job)
    with storing(path):
        write_atomically(path, baseline.model_dump_json(indent=1) + "\n")
    return path


def baseline_of(job: str, measured: Sequence[Measurement], pinned: str, why: str) -> Baseline:
    """Return the baseline that pins a release.

    Args:
        measured: of that release, the latest first, with answers; at least one.
    """
    latest = measured[0]
    boards: dict[str, OfBoard] = {}
    for m in measured:
        sessions = boards[m.board_id].sessions if m.board_id in boards else ()
        if m.provenance is Provenance.MEASURED and not invalid(m) and len(sessions) < SESSIONS:
            board = boards.get(m.board_id, OfBoard(board=m.board, device=m.device, runtime=m.runtime, sessions=()))
            boards[m.board_id] = board.model_copy(update={"sessions": (_session(m), *sessions)})
    builds = {m.build.compiled: m.build.compile_seconds for m in measured if m.build is not None}
    answered = next((m.answers for m in measured if m.answers is not None), None)
    return Baseline(
        job=job,
        release=latest.subject.release,
        pinned=pinned,
        why=why,
        commit=latest.build.commit if latest.build is not None else None,
        size_mb=Metric.SIZE.of(latest),
        compile_seconds=tuple(round(builds[made], 3) for made in sorted(builds)),
        accuracy=_accuracy(answered) if answered is not None else None,
        boards=dict(sorted(boards.items())),
    )


def _session(m: Measurement) -> Session:
    def rounded(metric: Metric) -> float | None:
        value = metric.of(m)
        return round(value, _DIGITS) if value is not None else None

    return Session(
        made=m.made, p50_ms=rounded(Metric.P50), p99_ms=rounded(Metric.P99), memory_mb=rounded(Metric.MEMORY)
    )


def _accuracy(answers: Answers) -> Accuracy:
    import numpy as np

    right = answers.right
    packed = np.packbits(right).tobytes()
    return Accuracy(
        samples=answers.samples,
        images=len(right),
        top1=round(100 * sum(right) / len(right), _DIGITS),
        right=base64.b64encode(zlib.compress(packed, 9)).decode(),
    )
