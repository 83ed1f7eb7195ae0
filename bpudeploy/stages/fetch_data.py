"""fetch/dataset: draws the evaluation and calibration sets by seed and verifies that they share no image."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bpudeploy.digest import Digest, digest_bytes
from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.spec.recipe import CalibrationSpec, DatasetFormat, DatasetSpec, SubsetSpec
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.images import ENDINGS, Files, LabelledFile, list_csv, list_folders, list_images, open_files
from bpudeploy.stages.samples import Subset

STEP = "fetch/dataset"
UNLABELLED = -1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time in a zip: the bytes must not depend on the clock


@dataclass(frozen=True)
class Sample:
    """One image of a set. ``label`` is -1 if unknown (images of a separate calibration source)."""

    file: str
    sha256: Digest
    label: int


@dataclass(frozen=True)
class Tree:
    """A local folder as a source, with the digest of its content."""

    path: Path
    digest: Digest


@dataclass(frozen=True)
class Origin:
    """Location of a set's images: a local folder, or (None) the next archive among the step's inputs."""

    tree: Tree | None
    member: str | None

    def canonical(self) -> Mapping[str, Any]:
        return {"tree": self.tree.digest if self.tree else None, "member": self.member}


@dataclass(frozen=True)
class DatasetOptions:
    """``calibration_origin`` is None if calibration images are drawn from the dataset."""

    dataset: DatasetSpec
    origin: Origin
    calibration: CalibrationSpec
    calibration_origin: Origin | None = field(default=None)

    def canonical(self) -> Mapping[str, Any]:
        inputs = {"source", "sha256"}  # their bytes are in the key, as digests of the inputs
        return {
            "dataset": self.dataset.model_dump(mode="json", exclude=inputs),
            "origin": self.origin.canonical(),
            "calibration": self.calibration.model_dump(mode="json", exclude=inputs),
            "calibration_origin": self.calibration_origin.canonical() if self.calibration_origin else None,
        }


def draw(
    files: Files, listed: list[LabelledFile], subset: Subset, wanted: SubsetSpec | CalibrationSpec, without: set[Digest]
) -> tuple[list[Sample], int]:
    """Draw ``wanted.count`` distinct images in seeded order, excluding the digests in ``without``.

    Returns the images and the number of duplicate files skipped.

    Raises:
        StageError: there are too few images, or a file cannot be read.
    """
    if not listed:
        hint = f"name a folder or archive with files that end in {' '.join(sorted(ENDINGS))}"
        raise StageError(f"the source of the {subset} set contains no images", hint=hint)
    order = sorted(listed, key=lambda item: item.file)
    random.Random(wanted.seed).shuffle(order)
    taken: dict[Digest, Sample] = {}
    count, repeated, held_out = wanted.count, 0, 0
    for item in order:
        if count is not None and len(taken) == count:
            break
        digest = digest_bytes(files.read(item.file))
        if digest in without:
            held_out += 1
        elif digest in taken:
            repeated += 1
        else:
            taken[digest] = Sample(item.file, digest, item.label)
    if not taken or (count is not None and len(taken) < count):
        lower = "calibration.count" if taken and subset is Subset.CALIBRATION else "dataset.evaluation.count"
        raise StageError(
            f"{subset} needs {count or 'some'} images, {len(taken)} are available: of {len(listed)} files "
            f"{held_out} are evaluation images and {repeated} are duplicates",
            hint=f"lower {lower}, or add images",
        )
    return list(taken.values()), repeated


def fetch_dataset(work: StepContext, options: DatasetOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Draw both sets and store their encoded images, so that later stages do not need the source."""
    archives = iter(inputs)
    out, dataset, other = work.dir / "dataset.zip", options.dataset, options.calibration_origin
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target, ExitStack() as opened:
        files = opened.enter_context(_open(options.origin, archives))
        if dataset.format is DatasetFormat.IMAGEFOLDER:
            listed, classes = list_folders(files, dataset.classes)
        else:
            assert dataset.labels is not None  # spec.load refuses a csv without labels
            listed, classes = list_csv(files, dataset.labels, dataset.classes)
        evaluation, repeated = draw(files, listed, Subset.EVALUATION, dataset.evaluation, set())
        duplicates = {Subset.EVALUATION: repeated}
        held_out = {s.sha256 for s in evaluation}
        _write(target, files, evaluation)
        candidates = listed
        if other is not None:
            files = opened.enter_context(_open(other, archives))
            candidates = [LabelledFile(name, UNLABELLED) for name in list_images(files)]
        calibration, repeated = draw(files, candidates, Subset.CALIBRATION, options.calibration, held_out)
        _write(target, files, calibration)
        duplicates[Subset.CALIBRATION] = repeated
        _check_disjoint(evaluation, calibration)
        index = {"classes": classes, "evaluation": evaluation, "calibration": calibration}
        text = json.dumps(index, default=asdict, sort_keys=True)
        target.writestr(zipfile.ZipInfo("index.json", _EPOCH), text)
    sizes = f"{len(evaluation)} for evaluation, {len(calibration)} for calibration, none in both (by sha256)"
    work.emit(Note(STEP, f"{len(listed)} images, {len(classes)} classes; {sizes}"))
    for subset, count in duplicates.items():
        if count:
            work.emit(Note(STEP, f"{subset}: {count} duplicate files skipped"))
    return (out,)


def _open(origin: Origin, archives: Iterator[Artifact]) -> AbstractContextManager[Files]:
    return open_files(origin.tree.path if origin.tree else next(archives).path, origin.member)


def _write(target: zipfile.ZipFile, files: Files, samples: list[Sample]) -> None:
    for sample in samples:
        data = files.read(sample.file)
        if digest_bytes(data) != sample.sha256:
            raise StageError(
                f"{sample.file} changed while it was read", hint="run again when no program changes the folder"
            )
        target.writestr(zipfile.ZipInfo(f"images/{sample.sha256}", _EPOCH), data)


def _check_disjoint(evaluation: list[Sample], calibration: list[Sample]) -> None:
    """Verify that the sets share no image, independently of how they were drawn."""
    both = {s.sha256 for s in evaluation} & {s.sha256 for s in calibration}
    if both:
        text = f"{len(both)} images are in evaluation and calibration"
        raise StageError(text, hint="this is a bug: please report it")


def dataset_stage(archives: int) -> Stage[DatasetOptions]:
    """Return the stage for a dataset whose sources are ``archives`` downloaded files; other sources are folders."""
    takes = (Kind.ARCHIVE,) * archives
    return Stage("dataset", version=1, takes=takes, gives={"dataset": Kind.DATASET}, run=fetch_dataset)
