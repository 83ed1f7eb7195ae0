"""The releases that this project has built, found by digest, name or run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bpudeploy.digest import Digest, short
from bpudeploy.errors import StoreError, UsageError
from bpudeploy.release import Manifest
from bpudeploy.results.measurement import BuildFacts, FrozenModel
from bpudeploy.spec.recipe import BenchmarkSpec

PROJECT = Path(".bpudeploy")
RUNS = PROJECT / "runs"
MANIFEST = "release.json"
_BUILT = "built.json"
_ANSWERS = "answers.json"


class Built(FrozenModel):
    """Build information that a run directory stores beside the manifest."""

    built: int
    """When the binary was compiled, seconds since 1970."""
    method: BenchmarkSpec
    facts: BuildFacts | None = None
    """None in runs of older versions."""


class HostAnswers(FrozenModel):
    """The host's answers for the evaluation and golden images, stored for later deployments.

    ``expected`` and ``truth`` are the top classes of each evaluation image, up to 5, best first.
    """

    labels: tuple[int, ...]
    expected: tuple[tuple[int, ...], ...]
    """Of the quantized model."""
    truth: tuple[tuple[int, ...], ...]
    """Of the original float network."""
    golden: tuple[tuple[float, ...], ...]
    """Logits of the quantized model for the golden images."""


@dataclass(frozen=True)
class BuiltRelease:
    """A release in a run directory, identified by its digest."""

    manifest: Manifest
    built: Built
    directory: Path

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def answers(self) -> HostAnswers:
        """Return the host's answers.

        Raises:
            StoreError: the run is of a version that did not store them.
        """
        try:
            return HostAnswers.model_validate_json((self.directory / _ANSWERS).read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{self.directory} has no host answers: it is of another version of bpudeploy",
                hint="run its recipe again: its steps are in the store",
            ) from error


def save_release(directory: Path, manifest: Manifest, built: Built, answers: HostAnswers) -> BuiltRelease:
    """Write a release into its run directory, where ``find_release`` finds it."""
    (directory / _ANSWERS).write_text(answers.model_dump_json())
    (directory / _BUILT).write_text(built.model_dump_json())
    (directory / MANIFEST).write_text(manifest.to_json())
    return BuiltRelease(manifest, built, directory)


def find_release(named: str, runs: Path = RUNS) -> BuiltRelease:
    """Return a release by run directory, digest prefix (4 digits or more), recipe name or NAME@TARGET (the latest).

    Raises:
        UsageError: there is none, or the prefix is ambiguous.
    """
    if (Path(named) / MANIFEST).is_file():
        found = _read(Path(named))
        if found is None:
            raise UsageError(f"{named} is a run of another version of bpudeploy", hint="run its recipe again")
        return found
    known = list(_all(runs))
    name, _, target = named.partition("@")
    latest = next((k for k in known if k.manifest.name == name and target in ("", k.manifest.target)), None)
    if latest is not None:
        return latest
    matches = {k.digest: k for k in known if len(named) >= 4 and k.digest.startswith(named)}
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        listed = ", ".join(short(digest) for digest in matches)
        raise UsageError(f"several releases begin with {named}: {listed}", hint="give more digits")
    names = sorted({f"{k.manifest.name}@{k.manifest.target}" for k in known})
    raise UsageError(
        f"no run in {runs} built a release {named!r}",
        hint=f"one of {', '.join(names)}, a digest or a run directory"
        if names
        else "`bpudeploy run RECIPE` builds one",
    )


def releases_of(named: str, runs: Path = RUNS) -> list[BuiltRelease]:
    """Return the distinct releases of NAME@TARGET, ordered by their first build."""
    name, _, target = named.partition("@")
    known: dict[str, BuiltRelease] = {}
    for one in reversed(list(_all(runs))):
        if (one.manifest.name, one.manifest.target) == (name, target):
            known.setdefault(one.digest, one)
    return list(known.values())


def _all(runs: Path) -> Iterator[BuiltRelease]:
    """Yield the releases of all runs, latest first."""
    for path in sorted(runs.glob(f"*/{MANIFEST}"), reverse=True):
        found = _read(path.parent)
        if found is not None:
            yield found


def _read(directory: Path) -> BuiltRelease | None:
    """Return the release of a run; None if it is of another version of bpudeploy."""
    try:
        fields = json.loads((directory / MANIFEST).read_text())
        steps = {name: tuple(map(Digest, digests)) for name, digests in fields.pop("steps").items()}
        manifest = Manifest(**fields, steps=steps)
        built = Built.model_validate_json((directory / _BUILT).read_bytes())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError):
        return None
    return BuiltRelease(manifest, built, directory)
