"""fetch/model of a user's PyTorch class: exports it to ONNX. The user's code runs in this stage only.

Later stages use the exported file, so its outputs are compared with those of the class here.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.host import open_session
from bpudeploy.onnxmodel import inputs_of
from bpudeploy.spec.source import CheckpointFormat
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.fetch_model import extract, load_strictly, read_weights
from bpudeploy.stages.fetch_onnx import OnnxOptions, write_network
from bpudeploy.stages.options import FieldOptions

if TYPE_CHECKING:
    import onnx
    import torch

    Shape = tuple[int, int, int, int]

_NAME = "bpudeploy_users_module"
_INPUTS = 3
"""Number of seeded random inputs on which the class and its export are compared."""


@dataclass(frozen=True)
class NetworkFactory:
    """A file (by its name in messages), a class or function in it that builds the network, and its arguments."""

    file: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ModuleOptions(FieldOptions):
    """``tolerance``: largest allowed |difference| of class and export, relative to the outputs' range.

    Nothing is run unless ``trusted``.
    """

    factory: NetworkFactory
    format: CheckpointFormat
    member: str | None
    image_size: tuple[int, int]
    batch: int
    features: bool
    tolerance: float
    trusted: bool

    def canonical(self) -> Mapping[str, Any]:
        """Leave out the file's path and ``trusted``; its bytes are an input."""
        fields = {name: value for name, value in super().canonical().items() if name not in ("factory", "trusted")}
        return {**fields, "class": self.factory.name, "arguments": self.factory.arguments}


def fetch_module(work: StepContext, options: ModuleOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Run a trusted file, load the weights strictly into its class, export it, and compare class and export.

    Raises:
        StageError: the recipe does not trust the file; its code fails; the weights do not fit; the network has
            data-dependent control flow; it cannot be exported; the outputs of the export differ.
    """
    from bpudeploy.restructure.export import export_whole

    code, weights = inputs
    factory, name = options.factory, options.factory.name
    if not options.trusted:
        raise StageError(f"{factory.file} is not trusted and was not run", hint="add `trust: true` to the model")
    checkpoint = extract(weights.path, options.member, work.dir)
    shape = (options.batch, 3, *options.image_size)
    with contextlib.redirect_stdout(sys.stderr):  # where the output of a user's code belongs
        model = load_network(code.path, factory)
        hint = f"names and shapes must match {name}(...).state_dict(); check the arguments"
        load_strictly(model, read_weights(checkpoint, options.format), name, hint)
        _check_static(model, shape, code.path, factory)
        exported = _without_unused(export_whole(model, shape))
        _check_export(model, exported, shape, options)
    onnx_options = OnnxOptions(options.image_size, options.batch, options.features, None)
    return write_network(work, exported, onnx_options, f"{name} as ONNX")


def load_network(path: Path, factory: NetworkFactory) -> torch.nn.Module:
    """Run the file at ``path`` and return the network that it builds, untrained, in eval mode.

    Raises:
        StageError: the file or its class fails (with the line of the error), or the result is not a torch module.
    """
    import torch

    module = ModuleType(_NAME)
    module.__file__ = str(path)
    sys.modules[_NAME] = module  # dataclasses and torch look up a class's module
    try:
        with torch.random.fork_rng(devices=[]), _user_code(path, factory, f"cannot build {factory.name}"):
            torch.manual_seed(0)
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
            made = getattr(module, factory.name)(**factory.arguments)
    finally:
        del sys.modules[_NAME]
    if not isinstance(made, torch.nn.Module):
        message = f"{factory.name} of {factory.file} returns {type(made).__name__}, not a torch.nn.Module"
        raise StageError(message, hint="name the class of the network, or a function that returns one")
    made.float()
    return made.eval()


@contextlib.contextmanager
def _user_code(
    path: Path, factory: NetworkFactory, failed: str, hint: str = "correct the file or model.arguments"
) -> Iterator[None]:
    """Turn any exception of the user's code into a StageError with its line."""
    try:
        yield
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        text = (str(error).strip().splitlines() or [""])[0][:300]
        where = f"{factory.file}:{lines[-1]}" if lines else factory.file
        raise StageError(f"{failed}: {where}: {type(error).__name__}: {text}", hint=hint) from error


def _check_static(model: torch.nn.Module, shape: Shape, code: Path, factory: NetworkFactory) -> None:
    """Check that a network takes RGB images, is deterministic, and has no data-dependent control flow."""
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    pixels = torch.from_numpy(_inputs(shape)[0])
    hint = "the input is (N, 3, H, W); a network for grey images starts with x = x.mean(1, keepdim=True)"
    failed = f"{factory.name} does not accept {'x'.join(map(str, shape))}"
    with torch.no_grad(), _user_code(code, factory, failed, hint):
        first, second = outputs(model(pixels)), outputs(model(pixels))
    if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        hint = "does a dropout ignore eval()? write F.dropout(x, p, self.training)"
        raise StageError(f"{factory.name} is not deterministic in eval mode", hint=hint)
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
            model(fake.from_tensor(pixels))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        message = f"{factory.name} has data-dependent control flow: {str(error).splitlines()[0]}"
        hint = "a BPU runs one fixed graph: no `if`, `while`, .item() or selection by the values of a tensor"
        raise StageError(message, hint=hint) from error
    except Exception:  # fake tensors do not support everything; real problems appear in the export
        return


def outputs(made: Any) -> list[torch.Tensor]:
    """Return a network's output as a list of tensors.

    Raises:
        TypeError: the output is not a tensor, or a list or tuple of tensors.
    """
    import torch

    tensors = list(made) if isinstance(made, list | tuple) else [made]
    if not tensors or not all(isinstance(output, torch.Tensor) for output in tensors):
        raise TypeError(f"forward returns {type(made).__name__}, not a tensor or a tuple of tensors")
    return tensors


def _without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop weights that no node reads (such as num_batches_tracked), and remove weights from the inputs."""
    from bpudeploy.quantize.onnx_edit import set_constants

    images = inputs_of(model.graph)
    set_constants(model, model.graph.initializer)
    del model.graph.input[:]
    model.graph.input.extend(images)
    return model


def _check_export(model: torch.nn.Module, exported: onnx.ModelProto, shape: Shape, options: ModuleOptions) -> None:
    import numpy as np
    import torch

    session = open_session(exported.SerializeToString())
    fed, worst = session.get_inputs()[0].name, 0.0
    for pixels in _inputs(shape):
        with torch.no_grad():
            expected = [output.numpy() for output in outputs(model(torch.from_numpy(pixels)))]
        for ours, theirs in zip(session.run(None, {fed: pixels}), expected, strict=True):
            worst = max(worst, float(np.abs(ours - theirs).max() / (np.ptp(theirs) or 1.0)))
    if not worst <= options.tolerance:
        message = f"the export of {options.factory.name} differs from it by {worst:.1e} of the outputs' range"
        hint = "restructure.tolerance is the limit; values computed outside torch in forward become constants"
        raise StageError(message, hint=hint)


def _inputs(shape: Shape) -> list[Any]:
    """Return seeded, normalised inputs: noise with different means, like bright and dark images."""
    import numpy as np

    numbers = np.random.default_rng(0)
    return [numbers.normal(mean, 1.0, shape).astype(np.float32) for mean in np.linspace(-1.0, 1.0, _INPUTS)]


FETCH_MODULE = Stage(
    "module",
    version=1,
    takes=(Kind.CODE, Kind.CHECKPOINT),
    gives={"model": Kind.MODEL},
    run=fetch_module,
    tools=("torch", "torchvision", "timm", "safetensors", "onnx", "onnxruntime"),
)
