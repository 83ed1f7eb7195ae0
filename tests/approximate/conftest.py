"""Small transformers with random weights, rewritten exactly: the input of every approximation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bpudeploy.approximate.cost import multiply_adds
from bpudeploy.host import open_with_outputs
from bpudeploy.restructure.bpu_form import form_errors
from bpudeploy.restructure.edit import editable_graph
from bpudeploy.restructure.export import network_of_module
from bpudeploy.restructure.graph import Graph
from bpudeploy.restructure.rewrite import rewrite
from bpudeploy.restructure.write import to_onnx
from bpudeploy.stages.timm_models import timm

if TYPE_CHECKING:
    import onnx
    import torch
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

OPTIONS: dict[str, Any] = {"img_size": 64, "depth": 4, "num_classes": 5}
SMALL = "vit_tiny_patch16_224"


@dataclass
class Exact:
    """A torch model and its exact rewrite."""

    torch: torch.nn.Module
    model: onnx.ModelProto
    keep_float: tuple[str, ...]

    def graph(self) -> Graph:
        """Return an editable copy of the graph."""
        return editable_graph(self.model, self.keep_float)

    def size(self) -> tuple[int, int]:
        """Return the input's height and width."""
        dims = self.model.graph.input[0].type.tensor_type.shape.dim
        return dims[2].dim_value, dims[3].dim_value

    def images(self, count: int = 3, seed: int = 1) -> F32:
        """Return normalised noise images."""
        return np.random.default_rng(seed).standard_normal((count, 3, *self.size())).astype(np.float32)

    def expected(self, change: Callable[[Any], None] = lambda model: None) -> F32:
        """Return the logits for ``images`` of a copy of the torch model modified by ``change``."""
        import torch

        model = copy.deepcopy(self.torch)
        change(model)
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(self.images())).numpy(), np.float32)

    def activations(self, images: F32) -> Callable[[Sequence[str]], Iterator[Mapping[str, F32]]]:
        """Return a function that yields tensors of the exact graph for each image."""

        def give(names: Sequence[str]) -> Iterator[Mapping[str, F32]]:
            for values in run(self.model, images, names):
                yield dict(zip(names, values, strict=True))

        return give


MakeExact = Callable[..., Exact]


@pytest.fixture(scope="session")
def exact() -> MakeExact:
    """Return ``exact(name, **options)``, cached per session."""
    made: dict[str, Exact] = {}

    def make(name: str = SMALL, **options: Any) -> Exact:
        options = options or OPTIONS
        key = f"{name} {sorted(options.items())}"
        if key not in made:
            model = _model(name, options)
            size = options.get("img_size", 64)
            rewritten = rewrite(network_of_module(copy.deepcopy(model), (1, 3, size, size)))
            made[key] = Exact(model, rewritten.model, rewritten.keep_float)
        return made[key]

    return make


def _model(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """Return a timm model with all parameters randomised, so that none can be missed."""
    import torch

    made = timm()
    made.layers.set_fused_attn(False)  # the exporter does not support fused attention
    torch.manual_seed(7)
    model: torch.nn.Module = made.create_model(name, pretrained=False, **options).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if key.endswith("gamma"):  # LayerScale starts at 1e-5, which would hide the whole branch
                parameter.copy_(0.3 + 0.2 * noise)
            else:
                parameter.add_(noise * (0.2 if parameter.ndim == 1 else 0.05))
    return model


def run(model: onnx.ModelProto, images: F32, names: Sequence[str] = ()) -> Iterator[list[F32]]:
    """Yield the outputs, or the tensors ``names``, for each image."""
    session = open_with_outputs(model, names)
    for image in images:
        yield session.run(list(names) or None, {"pixels": image[None]})


def logits(model: onnx.ModelProto, images: F32) -> F32:
    """Return (images, classes)."""
    return np.concatenate([made[0].reshape(1, -1) for made in run(model, images)])


def finish(graph: Graph) -> onnx.ModelProto:
    """Return the graph as ONNX after checking its form: 4-D, opset 11, shapes as recorded in its nodes."""
    import onnx

    claimed = {node.name: node.shape for node in graph.nodes.values()}
    kept = graph.keep_float
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert form_errors(model) == [] and model.opset_import[0].version == 11
    again = editable_graph(model, kept)
    assert {node.name: node.shape for node in again.nodes.values()} == claimed
    assert again.keep_float == kept, "nodes kept in float are identified by name"
    return model


def parameters(model: onnx.ModelProto) -> int:
    """Return the number of float parameters."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


def cost(model: onnx.ModelProto) -> int:
    """Return the multiply-adds."""
    return multiply_adds(editable_graph(model))


def close(ours: F32, theirs: F32, tolerance: float = 1e-5) -> bool:
    """Return whether the maximum difference is at most ``tolerance`` times the range."""
    return bool(np.abs(ours - theirs).max() <= tolerance * np.ptp(theirs))
