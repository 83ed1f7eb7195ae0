"""The only module that imports timm: models, transforms and configs."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.samples import Normalisation
from bpudeploy.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

METADATA_KEY = "bpudeploy.model"


@dataclass(frozen=True)
class ModelMeta:
    """Metadata of a MODEL artifact: enough to build the network for its weights."""

    architecture: str
    image_size: tuple[int, int]
    """Height and width in pixels."""
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    crop_mode: str
    batch: int = 1
    features: bool = False
    """Whether the network outputs feature maps, or anything else than one score per class."""
    layers: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModelMeta:
        """Parse the JSON of ``asdict(meta)``."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in json.loads(text).items()}
        return cls(**fields)


class Preprocess(Normalisation):
    """A resolved preprocessing, from an encoded image to the network's input pixels."""

    interpolation: str
    crop_pct: float
    crop_mode: str

    def __str__(self) -> str:
        mean, std = (" ".join(f"{v:g}" for v in triple) for triple in (self.mean, self.std))
        height, width = self.size
        return f"{height}x{width} {self.interpolation}, {self.crop_mode} crop {self.crop_pct:g}, mean {mean}, std {std}"


def timm() -> Any:
    """Import timm, even if torchvision's binary operators do not match the torch build.

    timm imports torchvision's transforms. With a CPU build of torch and a CUDA build of torchvision, that fails because
    ``torchvision::nms`` is not registered. Declaring the two missing operators, which are never called, is enough.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor x) -> Tensor")
        _LIBRARIES.append(library)
    import timm as package
    from timm.layers import set_exportable, set_fused_attn

    set_fused_attn(False)  # export attention as separate operators, as a BPU runs it
    set_exportable(True)
    return package


_LIBRARIES: list[Any] = []  # torch unregisters an operator library when it is garbage-collected


def create(architecture: str, *, image_size: int | tuple[int, int] | None, num_classes: int | None) -> torch.nn.Module:
    """Build an untrained timm model in eval mode.

    Args:
        architecture: timm's name; a pretrained tag determines the preprocessing.
        image_size: input height and width; None for the architecture's default.
        num_classes: size of the classifier; 0 for none, None for the architecture's default.

    Raises:
        StageError: timm has no such model, or it does not support the image size.
    """
    package = timm()
    if not package.is_model(architecture):
        near = difflib.get_close_matches(architecture, package.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise StageError(f"timm {package.__version__} has no architecture {architecture!r}", hint=hint)
    wanted: dict[str, Any] = {"num_classes": num_classes} if num_classes is not None else {}
    try:
        model: torch.nn.Module = package.create_model(architecture, **wanted, img_size=image_size)
    except TypeError:  # fully convolutional networks accept any size and have no such argument
        model = package.create_model(architecture, **wanted)
    except (AssertionError, RuntimeError, ValueError) as error:
        message = f"{architecture} cannot be built for {image_size} pixels: {str(error) or type(error).__name__}"
        raise StageError(message, hint="omit image_size, or use a multiple of the patch and window sizes") from error
    return model.eval()


def describe(model: torch.nn.Module, architecture: str, image_size: int | tuple[int, int] | None) -> ModelMeta:
    """Return the metadata of a model from timm's pretrained_cfg, at the size that it was built for."""
    timm()
    from timm.data import resolve_data_config

    args: dict[str, Any] = {}
    if image_size is not None:
        args = {"input_size": (3, *((image_size, image_size) if isinstance(image_size, int) else image_size))}
    config = resolve_data_config(args, model=model)
    return ModelMeta(
        architecture=architecture,
        image_size=tuple(config["input_size"][1:]),
        num_classes=int(model.num_classes),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )


def save_model(model: torch.nn.Module, meta: ModelMeta, path: Path) -> None:
    """Write a MODEL artifact: all parameters and buffers, and the metadata for rebuilding the network."""
    from safetensors.torch import save_file

    state = {name: tensor.contiguous().clone() for name, tensor in sorted(model.state_dict().items())}
    save_file(state, path, metadata={METADATA_KEY: json.dumps(asdict(meta), sort_keys=True)})


def read_meta(path: Path) -> ModelMeta:
    """Return the metadata of a MODEL artifact without reading its weights."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as tensors:
        return ModelMeta.parse(tensors.metadata()[METADATA_KEY])


def load_model(path: Path) -> tuple[torch.nn.Module, ModelMeta]:
    """Load a MODEL artifact's network with its weights, in eval mode; every name must match."""
    import torch
    from safetensors import safe_open

    meta = read_meta(path)
    model = create(meta.architecture, image_size=meta.image_size, num_classes=meta.num_classes)
    state = model.state_dict()
    with safe_open(path, framework="pt") as tensors, torch.no_grad():
        if set(tensors.keys()) != set(state):
            raise StageError(f"{path} is not the state of {meta.architecture}", hint="run fetch again")
        for name, tensor in state.items():  # one at a time, to avoid two copies of all weights
            tensor.copy_(tensors.get_tensor(name))
    return model, meta


def reparameterized(model: torch.nn.Module) -> torch.nn.Module:
    """Merge the training-time branches of a model in place (RepVGG, FastVIT, ...); others are unchanged."""
    timm()
    from timm.utils.model import reparameterize_model

    merged: torch.nn.Module = reparameterize_model(model, inplace=True)
    return merged.eval()


def feature_maps(model: torch.nn.Module, layers: tuple[int, ...]) -> torch.nn.Module:
    """Return a module that outputs the maps (N, C, h, w) after each of ``layers``, by default after the last.

    Raises:
        StageError: the architecture does not expose feature maps.
    """
    import torch

    class Maps(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            chosen: list[int] | int = list(layers) or 1
            made: list[torch.Tensor] = self.model.forward_intermediates(
                pixels, indices=chosen, intermediates_only=True, output_fmt="NCHW"
            )
            return made

    if not hasattr(model, "forward_intermediates"):
        hint = "use `outputs: logits`, or export the backbone to ONNX and use `model.onnx`"
        raise StageError(f"{type(model).__name__} does not support feature maps in timm", hint=hint)
    return Maps().eval()


def checkpoint_state(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Apply the architecture's checkpoint filter (renames, resized embeddings) to a published state dict."""
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return dict(filter_fn(state, model)) if filter_fn else state


def pixel_transform(preprocess: Preprocess) -> Callable[[Image.Image], np.ndarray[Any, Any]]:
    """Return timm's evaluation transform without normalisation: from a PIL image to uint8 (H, W, 3)."""
    timm()
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, *preprocess.size),
        is_training=False,
        use_prefetcher=True,  # omits normalisation and float conversion
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
    )

    def apply(image: Image.Image) -> np.ndarray[Any, Any]:
        import numpy as np

        pixels = np.asarray(transform(image.convert("RGB")))
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    return apply
