"""The original network, from timm or ONNX: its outputs, and its graph for the rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.host import open_session
from bpudeploy.onnxmodel import metadata_of
from bpudeploy.stages.timm_models import METADATA_KEY, ModelMeta, feature_maps, load_model, read_meta, reparameterized

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    from numpy.typing import NDArray

    from bpudeploy.restructure.network import Network

    F32 = NDArray[np.float32]

_SAFETENSORS_HEADER = 8
"""Bytes before the JSON (its length). The ninth byte of an ONNX file is not a brace."""


def open_original(path: Path) -> Original:
    """Open a MODEL artifact: a timm state dict, or an ONNX file."""
    return _class_of(path)(path)


def meta_of(path: Path) -> ModelMeta:
    """Return the metadata of a MODEL artifact, without reading its weights if possible."""
    return read_meta(path) if _class_of(path) is TimmOriginal else _onnx_meta(path)[1]


def framework_of(path: Path) -> str:
    """Return the framework of a MODEL artifact: torch, or onnxruntime for an ONNX file."""
    return _class_of(path).runs_on


def _class_of(path: Path) -> type[TimmOriginal | OnnxOriginal]:
    with path.open("rb") as file:
        return TimmOriginal if file.read(_SAFETENSORS_HEADER + 1)[-1:] == b"{" else OnnxOriginal


class TimmOriginal:
    """A timm model under torch."""

    runs_on = "torch"

    def __init__(self, path: Path) -> None:
        self._model, self.meta = load_model(path)
        if self.meta.features:
            self._model = feature_maps(self._model, self.meta.layers)

    def infer(self, pixels: F32) -> list[F32]:
        """Return the outputs for normalised pixels float32 (N, 3, H, W)."""
        import torch

        with torch.inference_mode():
            made = self._model(torch.from_numpy(pixels))
        outputs: Sequence[torch.Tensor] = made if isinstance(made, list | tuple) else [made]
        return [np_array(output) for output in outputs]

    def network(self) -> Network:
        """Return the network for the rewrite; it shares the weights, so ``infer`` must not be called afterwards."""
        from bpudeploy.restructure.export import network_of_module

        return network_of_module(reparameterized(self._model), self._shape())

    def as_onnx(self) -> onnx.ModelProto:
        """Return the network as ONNX with its weights; tensors have the same names as in ``network``."""
        from bpudeploy.restructure.export import export_whole

        return export_whole(reparameterized(self._model), self._shape())

    def _shape(self) -> tuple[int, int, int, int]:
        return (self.meta.batch, 3, *self.meta.image_size)


class OnnxOriginal:
    """A user's ONNX network under onnxruntime, with the methods of ``TimmOriginal``."""

    runs_on = "onnxruntime"

    def __init__(self, path: Path) -> None:
        self._model, self.meta = _onnx_meta(path)
        self._session: Any = None

    def infer(self, pixels: F32) -> list[F32]:
        self._session = self._session or open_session(self._model.SerializeToString())
        image_input = self._session.get_inputs()[0]
        channels_first = list(image_input.shape[1:]) == list(pixels.shape[1:])
        return list(
            self._session.run(None, {image_input.name: pixels if channels_first else pixels.transpose(0, 2, 3, 1)})
        )

    def network(self) -> Network:
        from bpudeploy.restructure.network import read_network

        self._session = None
        return read_network(self._model)

    def as_onnx(self) -> onnx.ModelProto:
        return self._model


Original = TimmOriginal | OnnxOriginal
"""A trained network in its own framework, named by ``runs_on``."""


def _onnx_meta(path: Path) -> tuple[onnx.ModelProto, ModelMeta]:
    import onnx

    model = onnx.load(path)
    return model, ModelMeta.parse(metadata_of(model)[METADATA_KEY])


def np_array(tensor: torch.Tensor) -> F32:
    """Return a tensor as a float32 array (a copy)."""
    import numpy as np

    return np.array(tensor.numpy(), dtype=np.float32)
