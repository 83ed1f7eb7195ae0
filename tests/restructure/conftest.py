"""Small vision transformers with random weights in every place where a missing fold would show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

MakeVit = Callable[..., "torch.nn.Module"]


@pytest.fixture(scope="session")
def make_vit() -> MakeVit:
    """Return ``make(name, **options)``: a timm model in evaluation mode, all parameters perturbed by a seed."""
    import torch

    for operator in ("nms", "qnms"):  # a CPU torchvision built without operators fails to import without these
        try:
            getattr(torch.ops.torchvision, operator)
        except AttributeError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{operator}(Tensor x) -> Tensor")
            _KEPT.append(library)
    import timm

    def make(name: str, **options: Any) -> torch.nn.Module:
        torch.manual_seed(7)
        model: torch.nn.Module = timm.create_model(name, pretrained=False, **options).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                noise = torch.randn_like(parameter)
                if key.endswith("gamma"):  # LayerScale starts at 1e-5, which would hide the whole branch
                    parameter.copy_(0.3 + 0.2 * noise)
                else:
                    parameter.add_(noise * (0.2 if parameter.ndim == 1 else 0.05))
        return model

    return make


_KEPT: list[object] = []
