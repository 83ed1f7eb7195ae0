"""The graphs for `inspect`: of an architecture, an ONNX file or a recipe's model. Fetches nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bpudeploy.backends.registry import backend_names
from bpudeploy.conformance.report import Form, Inspection
from bpudeploy.errors import StageError, UsageError
from bpudeploy.events import Event
from bpudeploy.onnxmodel import inputs_of, shape_of
from bpudeploy.spec.approximate import ApproximateSpec
from bpudeploy.spec.load import LoadedRecipe, is_file, load_recipe
from bpudeploy.spec.module import ModuleRef
from bpudeploy.spec.recipe import ModelSpec, Outputs
from bpudeploy.spec.source import Source, SourceKind
from bpudeploy.spec.target import Target

if TYPE_CHECKING:
    import onnx
    import torch

    from bpudeploy.conformance.placement import CheckerPlacement
    from bpudeploy.conformance.profile import Profile
    from bpudeploy.restructure.network import Network

T = TypeVar("T")
Size = int | tuple[int, int] | None
RANDOM = "random weights: placement depends on shapes alone"


@dataclass(frozen=True, eq=False)
class InspectedModel:
    """A graph to inspect. ``constants`` are the graph inputs that are weights; ``trained`` if the weights are real."""

    name: str
    form: Form
    origin: str
    model: onnx.ModelProto
    constants: frozenset[str]
    trained: bool

    def on(self, target: Target, emit: Callable[[Event], None] | None = None) -> Inspection:
        """Return the placement of the nodes on ``target``; with ``emit``, by the vendor's checker.

        Raises:
            UsageError: there is no checker for this target, or the graph has no weights.
            ToolMissing: the checker is not installed.
            StageError: the checker rejects the model.
        """
        from bpudeploy.conformance.placement import placement

        checked = None if emit is None else self._checked(target, emit)
        graph = self.graph_for(target)
        found = placement(graph, target.march, self.constants, self.form, trained=self.trained, checked=checked)
        return Inspection(model=self.name, origin=self.origin, target=target.name, placement=found)

    def graph_for(self, target: Target) -> onnx.ModelProto:
        """Return the graph as ``target``'s compiler gets it: the restructured form is laid out for it."""
        if self.form is Form.ORIGINAL or not target.layout.changes_graphs:
            return self.model
        from bpudeploy.layout.lay_out import laid_out

        return laid_out(self.model, target.layout)

    def compiled_for(self, target: Target, emit: Callable[[Event], None]) -> Profile:
        """Compile the restructured graph, laid out for ``target``, and return the compiler's estimate: all int8, O3.

        Raises:
            UsageError: there is no compiler for this target.
            ToolMissing: the compiler is not installed.
            StageError: it fails.
        """
        from bpudeploy.backends.horizon.fast import fast_profile
        from bpudeploy.spec.compile_options import HbMapperOptions

        self._require_compiler(target)
        return fast_profile(self.graph_for(target), target.march, HbMapperOptions(), emit)

    def _require_compiler(self, target: Target) -> None:
        from bpudeploy.backends.horizon.checker import MARCHES

        if target.march not in MARCHES:
            raise UsageError(
                f"there is no compiler here for {target.march} ({target.name})",
                hint="--with-compiler is for X3, Ultra and X5; leave it out",
            )

    def _checked(self, target: Target, emit: Callable[[Event], None]) -> CheckerPlacement:
        from bpudeploy.backends.horizon.checker import check
        from bpudeploy.spec.compile_options import HbMapperOptions

        self._require_compiler(target)
        if self.constants:
            raise UsageError(
                f"{self.name} was exported without its weights, which the compiler needs",
                hint="inspect the restructured form (without --original), or an .onnx file",
            )
        return check(self.graph_for(target), target.march, HbMapperOptions(), emit)


def load_models(
    text: str, *, original: bool, image_size: int | None
) -> tuple[tuple[InspectedModel, Target | None], ...]:
    """Return the graphs that ``text`` names, each with the target of its recipe if any.

    Args:
        text: a timm architecture, an .onnx file, or a recipe (.yaml).
        original: return the graph as exported instead of its 4-D form.

    Raises:
        UsageError: there is no such model or file, or the image size is not possible.
        StageError: the model has no 4-D form, or cannot be exported.
    """
    form = Form.ORIGINAL if original else Form.RESTRUCTURED
    if is_file(text):
        recipes = load_recipe(Path(text), (), backend_names, to_look=True)
        return _recipes(recipes, form, image_size)
    if text.endswith(".onnx"):
        return ((_onnx(Path(text), form, image_size, 1), None),)
    if "/" in text or text.endswith((".pth", ".pt", ".bin", ".safetensors")):
        raise UsageError(
            f"{text!r} cannot be inspected",
            hint="give a timm architecture (deit_tiny_patch16_224), an .onnx file, or a recipe (.yaml)",
        )
    name = text.removeprefix("timm:").split(".")[0]
    return ((_architecture(name, form, image_size), None),)


def _recipes(
    recipes: Sequence[LoadedRecipe], form: Form, image_size: int | None
) -> tuple[tuple[InspectedModel, Target], ...]:
    """Return each recipe's graph and target; recipes with the same model share the graph."""
    made: dict[str, InspectedModel] = {}
    found = []
    for resolved in recipes:
        key = f"{resolved.recipe.model.model_dump_json()} {_classes(resolved)}"
        if key not in made:
            made[key] = _of_recipe(resolved, form, image_size)
        found.append((_note_approximations(made[key], resolved), resolved.target))
    return tuple(found)


def _of_recipe(resolved: LoadedRecipe, form: Form, image_size: int | None) -> InspectedModel:
    spec = resolved.recipe.model
    size = image_size or spec.image_size
    source = Source.parse(spec.location)
    if spec.onnx is not None:
        if source.kind is not SourceKind.FILE:
            raise UsageError(
                f"the network of {resolved.recipe.name} is at {spec.onnx}, and inspect fetches nothing",
                hint="give the .onnx file itself, or run the recipe `--until restructure` and look at its report",
            )
        return _onnx(Path(source.locator), form, size, spec.batch)
    if spec.module is not None:
        return _module(spec, form, image_size)
    return _architecture(spec.architecture or source.locator, form, size, spec, _classes(resolved))


def _note_approximations(subject: InspectedModel, resolved: LoadedRecipe) -> InspectedModel:
    """Note that the recipe's approximations, which need weights and images, are not applied."""
    if resolved.recipe.restructure.approximate == ApproximateSpec():
        return subject
    return replace(subject, origin=f"{subject.origin}; exact, without the recipe's restructure.approximate")


def _classes(resolved: LoadedRecipe) -> int | None:
    """Return the number of classes of the recipe's network, None if that needs fetching."""
    head = resolved.recipe.model.head
    if head is None:
        return None
    source = Source.parse(head.source)
    if source.kind is SourceKind.FILE and Path(source.locator).is_file():
        from safetensors import safe_open

        with safe_open(source.locator, framework="numpy") as tensors:
            return int(tensors.get_slice("weight").get_shape()[0])
    return len(resolved.recipe.dataset.classes) or None


def _architecture(
    name: str, form: Form, size: Size, spec: ModelSpec | None = None, classes: int | None = None
) -> InspectedModel:
    from bpudeploy.stages import timm_models

    try:
        model = timm_models.create(name, image_size=size, num_classes=classes)
    except StageError as error:
        raise UsageError(error.message, hint=error.hint) from error
    shape = (spec.batch if spec else 1, 3, *timm_models.describe(model, name, size).image_size)
    if spec is not None and spec.outputs is Outputs.FEATURES:
        model = timm_models.feature_maps(model, spec.layers)
    return _untrained(name, timm_models.reparameterized(model), shape, form, size)


def _module(spec: ModelSpec, form: Form, image_size: int | None) -> InspectedModel:
    """Run the file that the recipe trusts; no weights are read."""
    from bpudeploy.stages.fetch_module import NetworkFactory, load_network

    module, size = ModuleRef.parse(spec.module or ""), image_size or spec.image_size
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)  # spec.checks wants a size
    with contextlib.redirect_stdout(sys.stderr):  # where the output of a user's code belongs
        model = load_network(Path(module.path), NetworkFactory(module.path, module.name, spec.arguments))
        return _untrained(module.name, model, (spec.batch, 3, height, width), form, size)


def _untrained(
    name: str, model: torch.nn.Module, shape: tuple[int, int, int, int], form: Form, size: Size
) -> InspectedModel:
    from bpudeploy.restructure.export import export, network_of_module

    origin = f"{shape[2]}x{shape[3]} pixels, {RANDOM}"
    if form is Form.ORIGINAL:
        weights = frozenset(model.state_dict())
        return InspectedModel(name, form, origin, _fits(lambda: export(model, shape), size), weights, False)
    network = _fits(lambda: network_of_module(model, shape), size)
    return InspectedModel(name, form, origin, _rewritten(name, network), frozenset(), False)


def _fits(make: Callable[[], T], size: Size) -> T:
    """Return ``make()``; its failure is a usage error if an image size was given."""
    try:
        return make()
    except StageError as error:
        if size is None:
            raise
        raise UsageError(
            f"the network does not take images of {size} pixels: {error.message}",
            hint="leave --image-size out, or use a multiple of the patch and window sizes",
        ) from error


def _rewritten(name: str, network: Network) -> onnx.ModelProto:
    from bpudeploy.restructure.rewrite import rewrite

    try:
        return rewrite(network).model
    except StageError as error:
        hint = f"{error.hint or ''}; `--original` inspects {name} as it was exported".lstrip("; ")
        raise StageError(error.message, hint=hint) from error


def _onnx(path: Path, form: Form, size: Size, batch: int) -> InspectedModel:
    from bpudeploy.restructure.network import read_network
    from bpudeploy.stages.fetch_onnx import read_onnx

    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="give the path of an .onnx model")
    try:
        model = read_onnx(path)
    except StageError as error:
        raise UsageError(error.message, hint=error.hint) from error
    shape = _fix(model, size, batch)
    origin = f"input {'x'.join(map(str, shape))}"
    if form is Form.RESTRUCTURED:
        model = _rewritten(path.name, read_network(model))
    return InspectedModel(path.name, form, origin, model, frozenset(), True)


def _fix(model: onnx.ModelProto, size: Size, batch: int) -> tuple[int, ...]:
    """Give the first input of the network a fixed shape, and return it."""
    images = next(iter(inputs_of(model.graph)), None)
    dims = images.type.tensor_type.shape.dim if images is not None else []
    if images is None or not dims:
        raise UsageError("the ONNX network has no input with a rank", hint="export it again")
    wanted: Sequence[int | None] = [batch, *[None] * (len(dims) - 1)]
    if len(dims) == 4 and size is not None:
        h, w = (size, size) if isinstance(size, int) else size
        last = dims[3].dim_value in (1, 3) and dims[1].dim_value not in (1, 3)
        wanted = [batch, h, w, None] if last else [batch, None, h, w]
    for axis, (dim, n) in enumerate(zip(dims, wanted, strict=True)):
        if n is not None and axis > 0 and dim.dim_value and dim.dim_value != n:
            raise UsageError(
                f"input {images.name!r} has {dim.dim_value} on axis {axis}, not {n}",
                hint="the shape in the file is fixed: leave --image-size out, or export the model again",
            )
        if not dim.dim_value:
            if n is None:
                raise UsageError(f"axis {axis} of input {images.name!r} is not fixed", hint="add --image-size")
            dim.Clear()
            dim.dim_value = n
    return shape_of(images)
