"""Train the weights of recipes/inspection-cnn.yaml, on all of its dataset's images outside its evaluation set.

    .venv/bin/python -m benchmarks.train_inspection                                     # half an hour of two busy cores
    .venv/bin/python -m benchmarks.train_inspection --epochs 1 --out try.safetensors

Seeded. The last epoch is kept, whatever it scores: the evaluation images choose nothing, and are scored once, at the
end. Sums of floats depend on the CPU and its threads, so another machine's weights are not these bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import bpudeploy
from bpudeploy import LoadedRecipe
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import CALIBRATION, EVALUATION, PREPROCESSING
from bpudeploy.run.runner import RunResult, run
from bpudeploy.spec.module import ModuleRef
from bpudeploy.stages.fetch_module import NetworkFactory, load_network
from bpudeploy.stages.timm_models import Preprocess
from bpudeploy.store.objects import default_root

RECIPE = Path("recipes/inspection-cnn.yaml")
SEED, EPOCHS, BATCH, RATE, DECAY = 0, 24, 32, 4e-3, 5e-2
Labelled = tuple[torch.Tensor, torch.Tensor]
"""Normalised pixels float32 (N, 3, H, W), and labels (N,)."""


def network(resolved: LoadedRecipe) -> torch.nn.Module:
    """Return the recipe's class, untrained."""
    module = ModuleRef.parse(resolved.recipe.model.module or "")
    return load_network(Path(module.path), NetworkFactory(module.path, module.name, resolved.recipe.model.arguments))


def images(untrained: Path) -> tuple[Labelled, Labelled]:
    """Return the training and the evaluation set, each as the recipe's own stages make it."""
    sets = [f"model.source={untrained.resolve()}"]
    resolved = bpudeploy.load(RECIPE, *sets)
    save_file(network(resolved).state_dict(), untrained)
    done = run(pipeline.plan_head(resolved, 0.0).upto(CALIBRATION), default_root(), lambda event: None)
    return _read(done, CALIBRATION), _read(done, EVALUATION)


def _read(done: RunResult, step: str) -> Labelled:
    prepared = Preprocess.read(done.artifact(PREPROCESSING).path)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (prepared.mean, prepared.std))
    with safe_open(done.artifact(step).path, framework="pt") as tensors:
        pixels = tensors.get_tensor("pixels").permute(0, 3, 1, 2).float() / 255
        return (pixels - mean) / std, tensors.get_tensor("labels")


def train(model: torch.nn.Module, training: Labelled, epochs: int) -> None:
    """Train in place: AdamW, one cycle of the rate, flips and quarter turns."""
    pixels, labels = training
    numbers = torch.Generator().manual_seed(SEED)
    steps = epochs * -(-len(labels) // BATCH)
    solver = torch.optim.AdamW(model.parameters(), weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(solver, RATE, total_steps=steps)
    model.train()
    for epoch in range(1, epochs + 1):
        started, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(labels), generator=numbers).split(BATCH):
            batch = torch.rot90(pixels[chosen], int(torch.randint(4, (), generator=numbers)), (2, 3))
            turned = batch.flip(3) if int(torch.randint(2, (), generator=numbers)) else batch
            loss = torch.nn.functional.cross_entropy(model(turned), labels[chosen], label_smoothing=0.05)
            solver.zero_grad()
            loss.backward()
            solver.step()
            rate.step()
            total += float(loss.detach()) * len(chosen)
        print(f"epoch {epoch:>3}: loss {total / len(labels):.4f}, {time.perf_counter() - started:.1f} s", flush=True)
    model.eval()


def top1(model: torch.nn.Module, held: Labelled) -> float:
    """Return the percentage that is right."""
    pixels, labels = held
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in pixels.split(BATCH)])
    return 100 * float((found == labels).float().mean())


def main() -> None:
    """Train, write, score once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=RECIPE.with_suffix(".safetensors"))
    args = parser.parse_args()
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        untrained = Path(folder) / "untrained.safetensors"
        untrained.touch()
        training, evaluation = images(untrained)
        resolved = bpudeploy.load(RECIPE, f"model.source={untrained}")
        model = network(resolved)
    print(f"{len(training[1])} images, {sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, training, args.epochs)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, args.out)
    often = Counter(evaluation[1].tolist()).most_common(1)[0][1]
    print(f"{args.out}: top-1 {top1(model, evaluation):.2f} % of {len(evaluation[1])} evaluation images")
    print(f"saying the most frequent class always would be {100 * often / len(evaluation[1]):.2f} %")


if __name__ == "__main__":
    main()
