"""Pinned baselines, in git: one file per job, with the release that later ones are compared with, and its figures."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from bpudeploy.errors import UsageError
from bpudeploy.files import write_atomically
from bpudeploy.nightly.metrics import Metric, is_from_suite
from bpudeploy.nightly.night import utc_now
from bpudeploy.nightly.suite import Job, LoadedSuite
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Answers, FrozenModel, Measurement
from bpudeploy.results.store import Query, Results
from bpudeploy.store.objects import storing

_MAX_SESSIONS = 20
"""Sessions per board that a baseline keeps, the newest: a night is compared with their spread."""
_MAX_MEASUREMENTS = 60
"""Measurements of the release that are read."""
_DIGITS = 5


class Session(FrozenModel):
    """One benchmark of the pinned release."""

    made: str
    p50_ms: float | None
    p99_ms: float | None
    memory_mb: float | None

    def value_of(self, metric: Metric) -> float | None:
        return {Metric.P50: self.p50_ms, Metric.P99: self.p99_ms, Metric.MEMORY: self.memory_mb}.get(metric)


class BoardSessions(FrozenModel):
    """The sessions of the pinned release on one board, oldest first."""

    board: str
    device: str
    runtime: str
    sessions: tuple[Session, ...]


class PinnedAnswers(FrozenModel):
    """Which images of the evaluation set the pinned release classifies correctly."""

    samples: str
    """Digest of the images and labels."""
    images: int
    top1: float
    right: str
    """One bit per image, most significant first, deflated, in base64."""

    @property
    def answers(self) -> tuple[bool, ...]:
        """Whether each image is classified correctly.

        Raises:
            UsageError: ``right`` is damaged.
        """
        try:
            packed = zlib.decompress(base64.b64decode(self.right, validate=True))
        except (binascii.Error, zlib.error) as error:
            raise UsageError(f"a baseline's answers cannot be read: {error}", hint=_HINT) from error
        if len(packed) != (self.images + 7) // 8:
            raise UsageError(f"a baseline has answers to {self.images} images in {len(packed)} bytes", hint=_HINT)
        import numpy as np

        return tuple(map(bool, np.unpackbits(np.frombuffer(packed, np.uint8), count=self.images)))


class Baseline(FrozenModel):
    """A baseline file."""

    schema_version: int = 1
    job: str
    release: str
    pinned: str
    """UTC, ISO 8601: earlier changes are accepted."""
    why: str
    commit: str | None
    size_mb: float | None
    compile_seconds: tuple[float, ...]
    """Of each compilation."""
    accuracy: PinnedAnswers | None
    boards: Mapping[str, BoardSessions]
    """By ``board_id``."""


_HINT = "restore the file from git, or run `bpudeploy baseline update`"


def baseline_file(folder: Path, job: str) -> Path:
    """Return the path of a job's baseline; it may not exist."""
    return folder / f"{job}.json"


def read_baseline(folder: Path, job: str) -> Baseline | None:
    """Return a job's baseline, or None.

    Raises:
        UsageError: its file is not a baseline of this job.
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
        field = "".join(f"{part}: " for part in first["loc"])
        raise UsageError(f"{path}: {field}{first['msg']}", hint=_HINT) from error
    if found.job != job:
        raise UsageError(f"{path} is the baseline of {found.job}", hint=_HINT)
    return found


def write_baseline(folder: Path, baseline: Baseline) -> Path:
    """Write a baseline, one field per line for readable diffs; return its file."""
    path = baseline_file(folder, baseline.job)
    with storing(path):
        write_atomically(path, baseline.model_dump_json(indent=1) + "\n")
    return path


def baseline_of(job: str, measured: Sequence[Measurement], pinned: str, why: str) -> Baseline:
    """Return the baseline that pins a release.

    Args:
        measured: at least one measurement of that release, newest first, with answers.
    """
    latest = measured[0]
    boards: dict[str, BoardSessions] = {}
    for m in measured:
        sessions = boards[m.board_id].sessions if m.board_id in boards else ()
        if m.provenance is Provenance.MEASURED and not m.invalidating and len(sessions) < _MAX_SESSIONS:
            newest = boards.get(m.board_id, m)
            boards[m.board_id] = BoardSessions(
                board=newest.board, device=newest.device, runtime=newest.runtime, sessions=(_session(m), *sessions)
            )
    builds = {m.build.compiled: m.build.compile_seconds for m in measured if m.build is not None}
    answered = next((m.answers for m in measured if m.answers is not None), None)
    return Baseline(
        job=job,
        release=latest.subject.release,
        pinned=pinned,
        why=why,
        commit=latest.build.commit if latest.build is not None else None,
        size_mb=Metric.SIZE.value_in(latest),
        compile_seconds=tuple(round(builds[made], 3) for made in sorted(builds)),
        accuracy=_pinned_answers(answered) if answered is not None else None,
        boards=dict(sorted(boards.items())),
    )


def _session(m: Measurement) -> Session:
    def rounded(metric: Metric) -> float | None:
        value = metric.value_in(m)
        return round(value, _DIGITS) if value is not None else None

    return Session(
        made=m.made, p50_ms=rounded(Metric.P50), p99_ms=rounded(Metric.P99), memory_mb=rounded(Metric.MEMORY)
    )


def _pinned_answers(answers: Answers) -> PinnedAnswers:
    import numpy as np

    right = answers.right
    return PinnedAnswers(
        samples=answers.samples,
        images=len(right),
        top1=round(100 * sum(right) / len(right), _DIGITS),
        right=base64.b64encode(zlib.compress(np.packbits(right).tobytes(), 9)).decode(),
    )


BaselineUpdate = tuple[Baseline | None, Baseline | None]
"""A job's baseline before and after an update; the latter is None if the job has no measurement yet."""


def baseline_updates(loaded: LoadedSuite, results: Results, why: str) -> dict[str, BaselineUpdate]:
    """Return for each job the update that pins its most recently measured release; write nothing."""
    now = utc_now()
    return {
        job.name: (read_baseline(loaded.baselines, job.name), _updated(job, loaded, results, now, why))
        for job in loaded.jobs
    }


def _updated(job: Job, loaded: LoadedSuite, results: Results, now: str, why: str) -> Baseline | None:
    """Pin the newest release that a night of the suite measured, or else the newest one."""
    query = Query(recipe=job.resolved.recipe.name, target=job.resolved.target.name, with_samples=False)
    found = results.find(query)
    if not found:
        return None
    newest = next((m for m in found if is_from_suite(m, loaded.suite.name)), found[0])
    of_release = Query(
        release=newest.subject.release,
        recipe=newest.subject.recipe,
        target=newest.subject.target,
        provenance=newest.provenance,
        limit=_MAX_MEASUREMENTS,
    )
    return baseline_of(job.name, results.find(of_release), now, why)
