"""head/fit: fits a linear classifier on the features of a frozen backbone, by regularised logistic regression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.options import FieldOptions

if TYPE_CHECKING:
    import torch

STEP = "head/fit"
_FOLDS = 5
_BATCH = 16


@dataclass(frozen=True)
class HeadOptions(FieldOptions):
    """``l2`` is the weight of ||w||^2 / (2 N) on standardised features."""

    l2: float


def fit_head(work: StepContext, options: HeadOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Fit ``weight`` (classes, C) and ``bias`` (classes,), float32, on one set of samples.

    The fit uses standardised features; the standardisation is folded into the weights: w' = w / sd,
    b' = b - w . mean / sd. The reported top-1 is cross-validated (5-fold) on the same samples, never on
    evaluation images.

    Raises:
        StageError: the model already has a classifier, or the samples have fewer than two classes.
    """
    import torch
    from safetensors.torch import save_file

    features, labels = _features(work, *inputs)
    classes = int(labels.max()) + 1
    if classes < 2 or int(labels.min()) < 0:
        raise StageError(
            "the samples have fewer than two classes", hint="a head requires labelled images of each class"
        )
    mean, sd = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / sd
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    correct = 0
    for fold in range(_FOLDS):
        test = torch.zeros(len(x), dtype=torch.bool)
        test[order[fold::_FOLDS]] = True
        w, b = _logistic(x[~test], labels[~test], classes, options.l2)
        correct += int(((x[test] @ w.T + b).argmax(1) == labels[test]).sum())
    w, b = _logistic(x, labels, classes, options.l2)
    weight = w / sd
    out = work.dir / "head.safetensors"
    save_file({"weight": weight.float().contiguous(), "bias": (b - weight @ mean).float().contiguous()}, out)
    work.emit(Note(STEP, f"{len(x)} images, {classes} classes, cross-validated top-1 {100 * correct / len(x):.1f} %"))
    return (out,)


def _features(
    work: StepContext, model: Artifact, preprocess: Artifact, samples: Artifact
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float64 features (N, C) and int64 labels (N,)."""
    import torch
    from safetensors import safe_open

    from bpudeploy.stages.originals import TimmOriginal, framework_of
    from bpudeploy.stages.timm_models import Preprocess, load_model

    if framework_of(model.path) != TimmOriginal.runs_on:
        raise StageError("fit-head supports timm backbones only", hint="train your own network together with its head")
    network, meta = load_model(model.path)
    if meta.num_classes:
        raise StageError("the model already has a classifier", hint="fit-head requires weights without a classifier")
    resolved = Preprocess.read(preprocess.path)
    mean, std = torch.tensor(resolved.mean).view(3, 1, 1), torch.tensor(resolved.std).view(3, 1, 1)
    rows = []
    with safe_open(samples.path, framework="pt") as tensors, torch.no_grad():
        pixels, labels = tensors.get_slice("pixels"), tensors.get_tensor("labels")
        for start in range(0, len(labels), _BATCH):
            batch = pixels[start : start + _BATCH].permute(0, 3, 1, 2).float() / 255
            rows.append(network((batch - mean) / std).double())
            work.emit(Progress(STEP, min(start + _BATCH, len(labels)), len(labels), "images"))
    return torch.cat(rows), labels


def _logistic(x: torch.Tensor, y: torch.Tensor, classes: int, l2: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimise mean cross-entropy + l2 ||w||^2 / (2 N) by L-BFGS, starting at zero: convex and deterministic."""
    import torch

    w = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([w, b], max_iter=500, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ w.T + b, y) + l2 * (w**2).sum() / (2 * len(x))
        value.backward()
        return value

    solver.step(loss)
    return w.detach(), b.detach()


FIT_HEAD = Stage(
    "fit-head",
    version=1,
    takes=(Kind.MODEL, Kind.PREPROCESS, Kind.SAMPLES),
    gives={"head": Kind.CHECKPOINT},
    run=fit_head,
    tools=("timm", "torch"),
)
