"""fetch/model of a user's own PyTorch class: its code runs here and nowhere else, and becomes an ONNX network.

What comes after takes that file, on whatever machine it runs. So the class must say the same in both forms:
it is held against its export here, before anything is built on it.
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
from bpudeploy.spec.source import CheckpointFormat
from bpudeploy.stage import Artifact, Kind, Stage, Work
from bpudeploy.stages.fetch_model import extract, load_strictly, read_weights
from bpudeploy.stages.fetch_onnx import OnnxOptions, write_network

if TYPE_CHECKING:
    import onnx
    import torch

    Shape = tuple[int, int, int, int]

_NAME = "bpudeploy_users_module"
_INPUTS = 3
"""Seeded random inputs on which the class and its export must agree."""


@dataclass(frozen=True)
class Maker:
    """What makes the network: a file by its name as people know it, a class or function in it, its arguments."""

    file: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ModuleOptions:
    """``tolerance``: worst allowed |difference| of class and export over the outputs' range.

    ``trusted`` is what the recipe says; without it nothing is run.
    """

    maker: Maker
    format: CheckpointFormat
    member: str | None
    image_size: tuple[int, int]
    batch: int
    features: bool
    tolerance: float
    trusted: bool

    def canonical(self) -> Mapping[str, Any]:
        """Where the file was and that it is trusted do not change what it makes; its bytes are an input."""
        return {
            "class": self.maker.name,
            "arguments": self.maker.arguments,
            "format": self.format,
            "member": self.member,
            "image_size": list(self.image_size),
            "batch": self.batch,
            "features": self.features,
            "tolerance": self.tolerance,
        }


def fetch_module(work: Work, options: ModuleOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Run a trusted file, load the weights strictly into its class, export that and hold both against each other.

    Raises:
        StageError: the recipe does not trust the file; its code fails; the weights do not fit; the network's course
            depends on the image; it cannot be exported; the export says something else.
    """
    from bpudeploy.restructure.export import export_whole

    code, weights = inputs
    maker, name = options.maker, options.maker.name
    if not options.trusted:
        raise StageError(f"{maker.file} is not trusted and was not run", hint="add `trust: true` to the model")
    checkpoint = extract(weights.path, options.member, work.dir) if options.member else weights.path
    shape = (options.batch, 3, *options.image_size)
    with said_on_stderr():
        model = load_network(code.path, maker)
        hint = f"names and shapes are those of {name}(...).state_dict(); are the arguments those of the training?"
        load_strictly(model, read_weights(checkpoint, options.format), name, hint)
        _hold_steady(model, shape, code.path, maker)
        exported = _without_unused(export_whole(model, shape))
        _hold_equal(model, exported, shape, options)
    return write_network(
        work, exported, OnnxOptions(options.image_size, options.batch, options.features, None), f"{name} as ONNX"
    )


def load_network(path: Path, maker: Maker) -> torch.nn.Module:
    """Run the file at ``path``, and return the network that it makes, untrained, in eval mode.

    Raises:
        StageError: the file or its class fails, in its own words and with its line; it makes no torch module.
    """
    import torch

    module = ModuleType(_NAME)
    module.__file__ = str(path)
    sys.modules[_NAME] = module  # dataclasses and torch look a class's module up
    try:
        with torch.random.fork_rng(devices=[]), _in_users_words(path, maker, f"cannot make {maker.name}"):
            torch.manual_seed(0)
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
            made = getattr(module, maker.name)(**maker.arguments)
    finally:
        del sys.modules[_NAME]
    if not isinstance(made, torch.nn.Module):
        raise StageError(
            f"{maker.name} of {maker.file} makes a {type(made).__name__}, which is no torch.nn.Module",
            hint="name the class of the network, or a function that returns one",
        )
    made.float()
    return made.eval()


@contextlib.contextmanager
def _in_users_words(
    path: Path, maker: Maker, failed: str, hint: str = "correct the file or model.arguments"
) -> Iterator[None]:
    """Turn whatever the file's code raises into an error that names its line."""
    try:
        yield
    except Exception as error:  # a user's code may raise anything
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        said = (str(error).strip().splitlines() or [""])[0][:300]
        where = f"{maker.file}:{lines[-1]}" if lines else maker.file
        raise StageError(f"{failed}: {where}: {type(error).__name__}: {said}", hint=hint) from error


@contextlib.contextmanager
def said_on_stderr() -> Iterator[None]:
    """Keep what a user's code prints out of this program's own answer."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _hold_steady(model: torch.nn.Module, shape: Shape, code: Path, maker: Maker) -> None:
    """Hold a network to taking RGB images, to saying the same twice, and to one course for all images."""
    import torch
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    pixels = torch.from_numpy(_inputs(shape)[0])
    takes = "images are fed as (N, 3, H, W); a network of grey images begins with x = x.mean(1, keepdim=True)"
    with torch.no_grad(), _in_users_words(code, maker, f"{maker.name} does not take {_x(shape)}", takes):
        once, twice = outputs(model(pixels)), outputs(model(pixels))
    if not all(torch.equal(a, b) for a, b in zip(once, twice, strict=True)):
        raise StageError(
            f"{maker.name} gives two answers to one image in eval mode",
            hint="a dropout that ignores eval()? write F.dropout(x, p, self.training)",
        )
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
            model(fake.from_tensor(pixels))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise StageError(
            f"the course of {maker.name} depends on the image: {str(error).splitlines()[0]}",
            hint="a BPU runs one fixed graph: no `if`, `while`, .item() or selection by the values of a tensor",
        ) from error
    except Exception:  # what tensors without values cannot do is no fault: the export says what is
        return


def outputs(made: Any) -> list[torch.Tensor]:
    """Return what a network gave as a list of tensors.

    Raises:
        TypeError: it gave something else.
    """
    import torch

    given = list(made) if isinstance(made, list | tuple) else [made]
    if not given or not all(isinstance(output, torch.Tensor) for output in given):
        raise TypeError(f"forward gives {type(made).__name__}, not a tensor or a tuple of tensors")
    return given


def _without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop weights that no node reads (counters of batches), and weights from the inputs: nobody feeds them."""
    read = {name for node in model.graph.node for name in node.input}
    weights = {t.name: t for t in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in weights]
    del model.graph.initializer[:], model.graph.input[:]
    model.graph.initializer.extend(t for name, t in weights.items() if name in read)
    model.graph.input.extend(images)
    return model


def _hold_equal(model: torch.nn.Module, exported: onnx.ModelProto, shape: Shape, options: ModuleOptions) -> None:
    import numpy as np
    import torch

    session = open_session(exported.SerializeToString())
    fed, worst = session.get_inputs()[0].name, 0.0
    for pixels in _inputs(shape):
        with torch.no_grad():
            theirs = [output.numpy() for output in outputs(model(torch.from_numpy(pixels)))]
        for ours, own in zip(session.run(None, {fed: pixels}), theirs, strict=True):
            worst = max(worst, float(np.abs(ours - own).max() / (np.ptp(own) or 1.0)))
    if not worst <= options.tolerance:
        raise StageError(
            f"the export of {options.maker.name} differs from it by {worst:.1e} of the outputs' range",
            hint="restructure.tolerance is what may be; a value that forward computes outside torch is exported as a "
            "constant",
        )


def _inputs(shape: Shape) -> list[Any]:
    """Return seeded inputs, normalised: noise of different means, as bright and dark images are."""
    import numpy as np

    numbers = np.random.default_rng(0)
    return [numbers.normal(mean, 1.0, shape).astype(np.float32) for mean in np.linspace(-1.0, 1.0, _INPUTS)]


def _x(shape: Shape) -> str:
    return "x".join(map(str, shape))


FETCH_MODULE = Stage(
    "module",
    version=1,
    takes=(Kind.CODE, Kind.CHECKPOINT),
    gives={"model": Kind.MODEL},
    run=fetch_module,
    tools=("torch", "torchvision", "timm", "safetensors", "onnx", "onnxruntime"),
)
