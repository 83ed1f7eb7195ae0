"""A restructured tiny vision transformer and a few images for the quantization tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def rewritten() -> Any:
    """Return the rewrite of timm's test_vit with 64-pixel images, 5 classes and perturbed weights."""
    import torch

    from bpudeploy.restructure.export import network_of_module
    from bpudeploy.restructure.rewrite import rewrite
    from bpudeploy.stages.timm_models import create

    torch.manual_seed(0)
    model = create("test_vit", image_size=64, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return rewrite(network_of_module(model, (1, 3, 64, 64)))


@pytest.fixture(scope="session")
def images() -> Any:
    """Return six inputs, float32 (6, 1, 3, 64, 64)."""
    return np.random.default_rng(2).standard_normal((6, 1, 3, 64, 64)).astype(np.float32)
