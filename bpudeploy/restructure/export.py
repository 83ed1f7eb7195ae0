"""A torch module as a Network: its structure through ONNX, its weights where they are, never copied."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.restructure.imported import Network, read_network
from bpudeploy.restructure.traceable import traceable

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 17
"""The first with LayerNormalization as one operator."""


def export(model: torch.nn.Module, shape: tuple[int, int, int, int]) -> onnx.ModelProto:
    """Return the structure of ``model``, in evaluation mode, for float32 input of ``shape`` (N, 3, H, W).

    The weights are inputs of the graph, by the names of the state dict: they are not in it.

    Raises:
        StageError: torch cannot trace the model; its own words are in the message.
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
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise StageError(
            f"torch cannot export the model: {type(error).__name__}: {said}",
            hint="a network whose course depends on the image has no fixed graph; else report the model's name",
        ) from error
    exported: onnx.ModelProto = onnx.load_from_string(file.getvalue())
    return exported


def export_whole(model: torch.nn.Module, shape: tuple[int, int, int, int]) -> onnx.ModelProto:
    """Return ``model`` as ``export`` does, with its weights inside."""
    from onnx import numpy_helper

    exported = export(model, shape)
    for name, tensor in model.state_dict().items():
        exported.graph.initializer.append(numpy_helper.from_array(tensor.detach().numpy(), name))
    return exported


def network_of_module(model: torch.nn.Module, shape: tuple[int, int, int, int]) -> Network:
    """Return ``model`` as a Network that shares its weights' memory."""
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return read_network(export(model, shape), weights)
