"""Candidates: releases with everything that pushing, checking and measuring them needs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import load_backend
from bpudeploy.backends.samples import Scores, spread
from bpudeploy.boards.base import Board
from bpudeploy.digest import key_of
from bpudeploy.effects.verify import GoldenSet, installed_binary
from bpudeploy.errors import StoreError, UsageError
from bpudeploy.events import Event
from bpudeploy.planning.products import Products
from bpudeploy.planning.step import tool_version
from bpudeploy.release import Release
from bpudeploy.releases import PROJECT, BuiltRelease, HostAnswers, find_release
from bpudeploy.results.measurement import BuildFacts, Measurement, Subject
from bpudeploy.results.session import Contender, Setting
from bpudeploy.spec.recipe import BenchmarkSpec
from bpudeploy.stage import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOOLS = ("bpudeploy", "torch", "timm", "onnx", "onnxruntime", "numpy", "asyncssh")


@dataclass(frozen=True)
class Candidate:
    """A release with its test data and the host's answers; all files are in the store."""

    release: Release
    evaluation: Artifact
    golden: GoldenSet
    answers: HostAnswers
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

    @property
    def driver(self) -> Path | None:
        """The file of its runtime's driver, if the agent has none."""
        return load_backend(self.release.manifest.backend).driver


def candidate(release: BuiltRelease, store: Path) -> Candidate:
    """Return a release as a candidate, from the artifacts in the store that its manifest names.

    Raises:
        StoreError: one of them is no longer in the store.
    """
    products = Products.of_release(release.manifest.steps, store)
    for artifact in (products.binary, products.evaluation, products.golden_images):
        if not artifact.path.is_file():
            raise StoreError(
                f"the store at {store} no longer has the {artifact.kind} of release {release.manifest.name}",
                hint="run its recipe again to rebuild what is missing",
            )
    answers = release.answers()
    return Candidate(
        release=Release(release.manifest, products.binary, release.built.built),
        evaluation=products.evaluation,
        golden=GoldenSet(products.golden_images, answers.golden),
        answers=answers,
        build=release.built.facts,
    )


def earlier_candidate(digest: str, ours: Candidate, store: Path) -> Candidate:
    """Return an earlier release as a candidate to measure interleaved with ``ours``.

    Raises:
        UsageError: it is not of this project, or has other evaluation images.
        StoreError: it is no longer complete in the store.
    """
    found = candidate(find_release(digest), store)
    if found.evaluation.digest != ours.evaluation.digest:
        raise UsageError("it has other evaluation images", hint="run its recipe again with the same data")
    return found


def host_answers(products: Products) -> HostAnswers:
    """Return the host's answers, from the scores that a build computed: of the binary if they were simulated."""
    scores, golden = Scores.read(products.quantized_scores.path), Scores.read(products.golden_logits.path).logits
    if products.binary_scores is not None:
        scores = Scores.read(products.binary_scores.path)
        golden = scores.logits[spread(len(scores.logits), len(golden))]
    return HostAnswers(
        labels=scores.labels.tolist(),
        expected=_best_classes(scores).tolist(),
        truth=best_classes_in(products.float_scores).tolist(),
        golden=golden.tolist(),
    )


def best_classes_in(scores: Artifact) -> NDArray[np.int64]:
    """Return the top classes (N, up to 5) of SCORES, best first; ties are resolved to the lower class."""
    return _best_classes(Scores.read(scores.path))


def _best_classes(scores: Scores) -> NDArray[np.int64]:
    import numpy as np

    return np.argsort(-scores.logits, axis=1, kind="stable")[:, :5]


def measure(
    board: Board,
    candidates: Sequence[Candidate],
    method: BenchmarkSpec,
    emit: Callable[[Event], None],
) -> tuple[Measurement, ...]:
    """Measure candidates of one evaluation set on a board, interleaved; an interrupted session is resumed.

    Raises:
        BoardError: something failed; the session log under .bpudeploy/bench keeps what was measured.
        UsageError: the same benchmark is already running.
    """
    from bpudeploy.effects.bench import BenchBinary, bench
    from bpudeploy.effects.session_log import open_session_log

    first = candidates[0]
    manifest = first.release.manifest
    backend = load_backend(manifest.backend)
    setting = Setting(
        session=secrets.token_hex(8),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        contenders=tuple(
            Contender(subject=one.subject, expected=tuple(best[0] for best in one.answers.expected), build=one.build)
            for one in candidates
        ),
        samples=first.evaluation.digest,
        labels=first.answers.labels,
        method=method,
        board=board.name,
        device=backend.device(manifest.march),
        provenance=backend.provenance,
        versions=versions(),
    )
    named = [board.name, [one.subject.release for one in setting.contenders], setting.samples, method.model_dump_json()]
    binaries = [
        BenchBinary(one.release.binary, one.release.manifest.runtime, installed_binary(board, one.release), one.driver)
        for one in candidates
    ]
    with open_session_log(PROJECT / "bench" / f"{key_of('bench', named)}.jsonl", setting) as log:
        return bench(board, binaries, first.evaluation, log, emit)


def versions() -> Mapping[str, str]:
    """Return the versions of this machine's tools that affect builds and measurements."""
    return {tool: tool_version(tool) for tool in TOOLS}
