"""Convert a torch module to a Network: structure by ONNX export, weights shared with the module."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.restructure.network import Network, read_network
from bpudeploy.restructure.traceable import traceable

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 17
"""The first opset with LayerNormalization."""


def export(model: torch.nn.Module, shape: tuple[int, int, int, int]) -> onnx.ModelProto:
    """Return the graph of ``model`` (in evaluation mode) for a float32 input of ``shape`` (N, 3, H, W).

    The weights are graph inputs named as in the state dict; their values are not included.

    Raises:
        StageError: torch cannot trace the model; the message quotes torch's error.
    """
    import onnx
    import torch

    file = io.BytesIO()
    try:
        # torch prints the whole graph when it fails
        with torch.no_grad(), traceable(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (torch.zeros(shape),),
                file,
                opset_version=OPSET,
                dynamo=False,
                export_params=False,
                do_constant_folding=False,
                keep_initializers_as_inputs=True,
            )
    except Exception as error:  # whatever a model's forward or torch's exporter raises
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise StageError(
            f"torch cannot export the model: {type(error).__name__}: {reason}",
            hint="control flow that depends on the image has no fixed graph; otherwise report the model's name",
        ) from error
    return onnx.load_from_string(file.getvalue())


def export_whole(model: torch.nn.Module, shape: tuple[int, int, int, int]) -> onnx.ModelProto:
    """Return the graph of ``model`` with its weights included."""
    from onnx import numpy_helper

    exported = export(model, shape)
    for name, tensor in model.state_dict().items():
        exported.graph.initializer.append(numpy_helper.from_array(tensor.detach().numpy(), name))
    return exported


def network_of_module(model: torch.nn.Module, shape: tuple[int, int, int, int]) -> Network:
    """Return ``model`` as a Network that shares the memory of its weights."""
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return read_network(export(model, shape), weights)
