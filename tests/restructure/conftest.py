"""timm models with randomised parameters, so that a missing fold changes the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Return ``make(name, **options)``: a timm model in evaluation mode with seeded noise on all parameters."""
    import torch

    from bpudeploy.stages.timm_models import timm

    package = timm()

    def make(name: str, **options: Any) -> Any:
        torch.manual_seed(7)
        model = package.create_model(name, pretrained=False, **options).eval()
        with torch.no_grad():
            for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if not tensor.is_floating_point():
                    continue
                noise = torch.randn_like(tensor)
                if key.endswith("running_var"):
                    tensor.mul_(1 + 0.2 * noise.abs())
                elif key.endswith("gamma") or "gamma_" in key:  # LayerScale starts small, which would hide the branch
                    tensor.copy_(0.3 + 0.2 * noise)
                elif tensor.ndim <= 1 or not tensor.any():
                    tensor.add_(noise * 0.1)
        return model

    return make
