"""The pipeline: the plan of a recipe for a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bpudeploy.backends.base import Backend, SimulatingBackend, ToolMissing
from bpudeploy.backends.registry import load_backend
from bpudeploy.digest import Digest, digest_file, key_of
from bpudeploy.errors import SpecError
from bpudeploy.planning.products import (
    BINARY,
    BINARY_REPAIRED,
    BINARY_SCORES,
    CALIBRATION,
    EVALUATION,
    FLOAT_SCORES,
    GOLDEN,
    GRAPH,
    HEAD,
    INT8_SCORES,
    INTEGERS,
    LAYERS,
    LAYOUT,
    MODEL,
    PREPROCESSING,
    QUANTIZED,
    REPAIRED,
)
from bpudeploy.planning.step import Plan, PlanBuilder, Ref
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.spec.module import ModuleRef
from bpudeploy.spec.recipe import CalibrationSpec, ModelSpec, Outputs, Recipe
from bpudeploy.spec.source import CheckpointFormat, Source, SourceKind
from bpudeploy.stage import Kind
from bpudeploy.stages.approximate import approximations
from bpudeploy.stages.compare import COMPARE_INTEGERS, COMPARE_LAYERS, IntegersOptions
from bpudeploy.stages.compile import CompileStageOptions, compile_with, score_with, simulates
from bpudeploy.stages.download import DownloadOptions, download_stage
from bpudeploy.stages.fetch_data import DatasetOptions, Origin, Tree, dataset_stage
from bpudeploy.stages.fetch_model import (
    FETCH_MODEL,
    FETCH_MODEL_WITH_HEAD,
    PREPROCESS,
    ModelOptions,
    PreprocessOptions,
)
from bpudeploy.stages.fetch_module import FETCH_MODULE, ModuleOptions, NetworkFactory
from bpudeploy.stages.fetch_onnx import FETCH_ONNX, OnnxOptions
from bpudeploy.stages.head import FIT_HEAD, HeadOptions
from bpudeploy.stages.lay_out import LAY_OUT, LayOutOptions
from bpudeploy.stages.options import NoOptions
from bpudeploy.stages.quantize import QUANTIZE, SCORE_QUANTIZED, TAKE_GOLDEN, GoldenOptions, QuantizeOptions
from bpudeploy.stages.repair import REPAIR, RepairOptions
from bpudeploy.stages.repair_binary import BinaryRepairOptions, repair_in_binary
from bpudeploy.stages.restructure import REFERENCE, RESTRUCTURE, RestructureOptions
from bpudeploy.stages.samples import SAMPLES, SamplesOptions, Subset


class _Inputs(NamedTuple):
    model: Ref
    preprocess: Ref
    evaluation: Ref
    calibration: Ref


def plan(resolved: LoadedRecipe) -> Plan:
    """Return the plan of a recipe.

    If the backend's compiler is not installed, the plan ends at quantize, and ``Plan.until("compile")`` raises the
    ToolMissing error. Only hashes local sources and reads the compiler's version.

    Raises:
        SpecError: a local source cannot be read.
        UsageError: the target's backend is not installed.
    """
    recipe, backend = resolved.recipe, load_backend(resolved.target.backend)
    p = PlanBuilder(recipe.name)
    model, preprocess, evaluation, calibration = _fetch(p, resolved)
    scores = p.add(REFERENCE, FLOAT_SCORES, NoOptions(), model, preprocess, evaluation)["scores"]
    options = RestructureOptions(recipe.restructure.tolerance)
    made = p.add(RESTRUCTURE, GRAPH, options, model, preprocess, evaluation, scores)
    for change in approximations(recipe.restructure.approximate):
        calibrated = (calibration,) if change.calibrated else ()
        made = p.add(change.stage, change.step, change, made["graph"], *calibrated, preprocess, evaluation)
    if resolved.target.layout.changes_graphs:
        layout = LayOutOptions(resolved.target.layout, recipe.restructure.tolerance)
        made = p.add(LAY_OUT, LAYOUT, layout, made["graph"], made["scores"], preprocess, evaluation)
    graph = made["graph"]
    quantize = QuantizeOptions(recipe.quantize, resolved.target.march, resolved.target.precision)
    final = p.add(QUANTIZE, QUANTIZED, quantize, graph, calibration, preprocess)
    chosen = CompileStageOptions.of(resolved, backend)
    limits = _repair(resolved) if recipe.model.outputs is Outputs.LOGITS else None
    in_binary = limits is not None and _simulates(backend, chosen)
    if recipe.model.outputs is Outputs.LOGITS:
        scored = p.add(SCORE_QUANTIZED, INT8_SCORES, NoOptions(), final["quantized"], preprocess, evaluation)
        int8 = scored["scores"]
        if limits is not None and not in_binary:
            inputs = (final["prepared"], final["quantized"], calibration, preprocess, evaluation, scores, int8)
            final = p.add(REPAIR, REPAIRED, limits, *inputs)
            int8 = final["scores"]
        p.add(TAKE_GOLDEN, GOLDEN, GoldenOptions(), evaluation, int8)
    prepared, quantized = final["prepared"], final["quantized"]
    p.add(COMPARE_LAYERS, LAYERS, NoOptions(), graph, quantized, calibration, preprocess)
    rounding = IntegersOptions(resolved.target.precision.rounding)
    p.add(COMPARE_INTEGERS, INTEGERS, rounding, quantized, calibration, preprocess)
    try:
        made = p.add(compile_with(backend, chosen), BINARY, chosen, prepared, quantized, calibration, preprocess)
        if "simulator" in made and recipe.model.outputs is Outputs.LOGITS:
            simulated = made["binary"], made["simulator"]
            binary = p.add(score_with(backend, chosen), BINARY_SCORES, chosen, *simulated, evaluation)["scores"]
            if limits is not None and isinstance(backend, SimulatingBackend):
                before = (prepared, quantized, calibration, preprocess, evaluation, scores)
                given = (*before, *simulated, made["findings"], binary)
                repair = BinaryRepairOptions(chosen, limits)
                p.add(repair_in_binary(backend, chosen), BINARY_REPAIRED, repair, *given)
    except ToolMissing as error:
        return p.build({BINARY: error})
    return p.build()


def _repair(resolved: LoadedRecipe) -> RepairOptions | None:
    """Return the limits of repair; None if the recipe has no limit of accuracy, or no repair."""
    spec, max_drop = resolved.recipe.quantize, resolved.recipe.check.max_drop
    if max_drop is None or not spec.repair:
        return None
    return RepairOptions(max_drop, spec.max_slowdown, resolved.target.precision, spec.weights.correct_bias)


def _simulates(backend: Backend, chosen: CompileStageOptions) -> bool:
    """Return whether the binary's own integers can be scored: then repair waits for them."""
    try:
        return simulates(backend, chosen)
    except ToolMissing:
        return False


def plan_head(resolved: LoadedRecipe, l2: float) -> Plan:
    """Return the plan that fits a linear head on all images of the dataset outside the evaluation set."""
    recipe = resolved.recipe
    training = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"head": None}),
            "calibration": CalibrationSpec(count=None, seed=0),
        }
    )
    p = PlanBuilder(f"{recipe.name}-head")
    fetched = _fetch(p, replace(resolved, recipe=training))
    p.add(FIT_HEAD, HEAD, HeadOptions(l2), fetched.model, fetched.preprocess, fetched.calibration)
    return p.build()


def _fetch(p: PlanBuilder, resolved: LoadedRecipe) -> _Inputs:
    recipe = resolved.recipe
    model = _fetch_model(p, recipe)
    preprocess = p.add(PREPROCESS, PREPROCESSING, PreprocessOptions(recipe.preprocess), model)["preprocess"]
    archives: list[Ref] = []
    origin = _origin(p, "fetch/archive", recipe.dataset.source or "", recipe.dataset.sha256, archives)
    calibration = recipe.calibration
    other = (
        _origin(p, "fetch/calibration-archive", calibration.source, calibration.sha256, archives)
        if calibration.source
        else None
    )
    options = DatasetOptions(recipe.dataset, origin, calibration, other)
    dataset = p.add(dataset_stage(len(archives)), "fetch/dataset", options, *archives)["dataset"]
    evaluated = p.add(SAMPLES, EVALUATION, SamplesOptions(Subset.EVALUATION), dataset, preprocess)["samples"]
    calibrated = p.add(SAMPLES, CALIBRATION, SamplesOptions(Subset.CALIBRATION), dataset, preprocess)["samples"]
    return _Inputs(model, preprocess, evaluated, calibrated)


def _fetch_model(p: PlanBuilder, recipe: Recipe) -> Ref:
    spec, source = recipe.model, Source.parse(recipe.model.location)
    checkpoints = [_download(p, "fetch/weights", Kind.CHECKPOINT, source, spec.sha256)]
    features = spec.outputs is Outputs.FEATURES
    if spec.onnx is not None:
        options = OnnxOptions(spec.image_size, spec.batch, features, source.member)
        return p.add(FETCH_ONNX, MODEL, options, *checkpoints)["model"]
    if spec.module is not None:
        module = ModuleRef.parse(spec.module)
        code = _download(p, "fetch/module", Kind.CODE, Source(SourceKind.FILE, module.path), None)
        return p.add(FETCH_MODULE, MODEL, _module_options(recipe, module, source), code, *checkpoints)["model"]
    if spec.head is not None:
        named = Source.parse(spec.head.source)
        checkpoints.append(_download(p, "fetch/head", Kind.CHECKPOINT, named, spec.head.sha256))
    stage = FETCH_MODEL_WITH_HEAD if spec.head else FETCH_MODEL
    return p.add(stage, MODEL, _model_options(spec, source), *checkpoints)["model"]


def _model_options(spec: ModelSpec, source: Source) -> ModelOptions:
    name = "model.safetensors" if source.kind is SourceKind.TIMM else (source.member or source.locator)
    architecture = spec.architecture or source.locator  # with its tag, which selects the preprocessing
    encoded = CheckpointFormat.of(name)
    assert encoded is not None  # spec.checks refuses other endings
    return ModelOptions(
        architecture,
        spec.image_size,
        encoded,
        source.member,
        spec.head is not None,
        spec.batch,
        spec.outputs is Outputs.FEATURES,
        spec.layers,
    )


def _module_options(recipe: Recipe, module: ModuleRef, source: Source) -> ModuleOptions:
    spec, size = recipe.model, recipe.model.image_size
    assert size is not None  # spec.checks refuses a module without
    return ModuleOptions(
        NetworkFactory(module.path, module.name, spec.arguments),
        CheckpointFormat.of(source.member or source.locator) or CheckpointFormat.SAFETENSORS,
        source.member,
        (size, size) if isinstance(size, int) else size,
        spec.batch,
        spec.outputs is Outputs.FEATURES,
        recipe.restructure.tolerance,
        spec.trust,
    )


def _download(p: PlanBuilder, step: str, kind: Kind, source: Source, pinned: str | None) -> Ref:
    unknown = source.remote or not source.locator  # recipes without a pin or a source are inspected, not run
    digest = Digest(pinned) if pinned else None if unknown else _digest_local(Path(source.locator))
    return p.add(download_stage(step, kind), step, DownloadOptions(source, digest))["file"]


def _origin(p: PlanBuilder, step: str, text: str, pinned: str | None, archives: list[Ref]) -> Origin:
    """Return the origin of a set's images; a file is fetched first, a folder is read in place."""
    source = Source.parse(text)
    if source.kind is SourceKind.FILE and text and Path(source.locator).is_dir():
        return Origin(Tree(Path(source.locator), _digest_tree(Path(source.locator))), None)
    archives.append(_download(p, step, Kind.ARCHIVE, source, pinned))
    return Origin(None, source.member)


def _digest_local(path: Path) -> Digest:
    try:
        return digest_file(path)
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}", hint="correct the source's path") from error


def _digest_tree(root: Path) -> Digest:
    """Return the digest of a folder: of the relative path and bytes of every file."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return Digest(key_of("tree", [[p.relative_to(root).as_posix(), _digest_local(p)] for p in files]))
