"""Releases as candidates for a board: what is pushed, what is measured with it, and by which method."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.base import Runtime
from bpudeploy.backends.bpu_sim import BpuSimBackend
from bpudeploy.backends.samples import Scores
from bpudeploy.boards.base import Board
from bpudeploy.digest import Digest, key_of
from bpudeploy.effects.verify import Golden, installed
from bpudeploy.errors import StoreError
from bpudeploy.events import Event
from bpudeploy.known import PROJECT, Known
from bpudeploy.plan import pipeline
from bpudeploy.plan.step import Ref
from bpudeploy.release import Manifest, Release
from bpudeploy.results.measurement import BuildFacts, Measurement, Provenance, Subject
from bpudeploy.results.session import Contender, Setting
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.spec.target import Target
from bpudeploy.stage import Artifact, Kind
from bpudeploy.store.objects import object_path

if TYPE_CHECKING:
    from bpudeploy.effects.bench import Binary

TOOLS = ("bpudeploy", "torch", "timm", "onnx", "onnxruntime", "numpy", "asyncssh")


@dataclass(frozen=True)
class Candidate:
    """A release with all that a board is asked about it; every part is in the store."""

    release: Release
    evaluation: Artifact
    golden: Golden
    labels: tuple[int, ...]
    expected: tuple[int, ...]
    """The best class of each image in integers on the host."""
    truth: tuple[int, ...]
    """The best class of each image in float."""
    build: BuildFacts | None = None

    @property
    def subject(self) -> Subject:
        m = self.release.manifest
        return Subject(
            recipe=m.name,
            target=m.target,
            march=m.march,
            backend=m.backend,
            release=self.release.digest,
            binary=m.binary,
        )


def candidate(known: Known, store: Path) -> Candidate:
    """Find in the store what a release's manifest names.

    Raises:
        StoreError: it is not there any more.
    """

    manifest = known.manifest

    def there(ref: Ref) -> Artifact:
        digest = Digest(manifest.steps[ref.step][ref.index])
        path = object_path(store, digest)
        if not path.is_file():
            raise StoreError(
                f"the store at {store} no longer has {ref.step} of release {manifest.name}",
                hint="run its recipe again: what is missing is built anew",
            )
        return Artifact(ref.kind, digest, path)

    evaluation = there(Ref(pipeline.EVALUATION, 0, Kind.SAMPLES))
    scores = Scores.read(there(pipeline.final_scores(manifest.steps)).path)
    original = Scores.read(there(Ref(pipeline.FLOAT_SCORES, 0, Kind.SCORES)).path)
    images = there(Ref(pipeline.GOLDEN, 0, Kind.SAMPLES))
    logits = Scores.read(there(Ref(pipeline.GOLDEN, 1, Kind.SCORES)).path).logits
    return Candidate(
        release=Release(manifest, there(Ref(pipeline.BINARY, 0, Kind.BINARY)), known.built.built),
        evaluation=evaluation,
        golden=Golden(images, tuple(tuple(float(v) for v in row) for row in logits)),
        labels=tuple(int(label) for label in scores.labels),  # the set's own; its pixels may be gigabytes
        expected=tuple(int(best) for best in scores.logits.argmax(axis=1)),
        truth=tuple(int(best) for best in original.logits.argmax(axis=1)),
        build=known.built.facts,
    )


def measure(
    board: Board,
    candidates: Sequence[Candidate],
    method: BenchmarkSpec,
    provenance: Provenance,
    emit: Callable[[Event], None],
) -> tuple[Measurement, ...]:
    """Measure candidates of one evaluation set on a board, in turns; one that was cut is gone on with.

    Raises:
        BoardError: what failed; the notebook under .bpudeploy/bench keeps what was measured.
        UsageError: the same benchmark runs already.
    """
    from bpudeploy.effects.bench import bench
    from bpudeploy.effects.notebook import notebook

    first = candidates[0]
    setting = Setting(
        session=secrets.token_hex(8),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        contenders=tuple(Contender(subject=one.subject, expected=one.expected, build=one.build) for one in candidates),
        samples=first.evaluation.digest,
        labels=first.labels,
        method=method,
        board=board.name,
        device=_device(first.release.manifest),
        provenance=provenance,
        versions=versions(),
    )
    named = [board.name, [one.subject.release for one in setting.contenders], setting.samples, method.model_dump_json()]
    with notebook(PROJECT / "bench" / f"{key_of('bench', named)}.jsonl", setting) as book:
        return bench(board, [_binary(board, one) for one in candidates], first.evaluation, book, emit)


def _binary(board: Board, candidate: Candidate) -> Binary:
    from bpudeploy.effects.bench import Binary

    release = candidate.release
    return Binary(release.binary, release.manifest.runtime, installed(board, release))


def provenance_of(target: Target) -> Provenance:
    """Return what figures from a board of this kind are: a simulator's are simulated."""
    return Provenance.SIMULATED if target.backend == BpuSimBackend.name else Provenance.MEASURED


def _device(manifest: Manifest) -> str:
    return "CPU (onnxruntime)" if manifest.runtime == Runtime.ONNXRUNTIME else f"BPU ({manifest.march})"


def versions() -> Mapping[str, str]:
    """Return the versions of the tools on this machine that built and measured."""
    return {tool: version(tool) for tool in TOOLS}
