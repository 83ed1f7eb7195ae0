"""Loading a recipe file: composition, validation, and checks against its target."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bpudeploy.errors import SpecError
from bpudeploy.spec.checks import SOURCES, missing_for_run, problems
from bpudeploy.spec.compile_options import CompileOptions
from bpudeploy.spec.compose import compose, did_you_mean, expand, with_value
from bpudeploy.spec.module import ModuleRef
from bpudeploy.spec.recipe import Recipe
from bpudeploy.spec.source import Source, SourceKind
from bpudeploy.spec.target import March, Target
from bpudeploy.spec.validate import all_of, problem, validate
from bpudeploy.spec.yamlmarks import Node, load_yaml


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe with its target. Local sources are relative to the working directory.

    ``root`` is the recipe as written, for errors that need a location. ``lacks`` is what a run requires and the recipe
    does not have yet (a pin, the images): always empty unless loaded with ``to_look``.
    """

    recipe: Recipe
    target: Target
    files: tuple[Path, ...]
    root: Node = field(compare=False, repr=False)
    lacks: tuple[SpecError, ...] = field(default=(), compare=False)


def is_file(name: str) -> bool:
    """Return whether the argument is the path of a recipe or target file, and not a name."""
    return name.endswith((".yaml", ".yml"))


def load_recipe(
    path: Path, sets: Sequence[str] = (), backends: Callable[[], Collection[str]] = tuple, *, to_look: bool = False
) -> tuple[LoadedRecipe, ...]:
    """Load a recipe file: one recipe, or several with a ``matrix:``.

    Args:
        sets: overrides, ``a.b=c``.
        backends: returns the names of the installed backends; called only for a ``compile:`` section unknown to us.
        to_look: nothing will be fetched or run: what only a run requires is in ``lacks`` instead of an error.

    Raises:
        SpecError: the first error, with the rest in ``others``.
    """
    composed = compose(path, sets)
    return tuple(_resolve(root, composed.files, backends, to_look) for root in expand(composed.root))


def _resolve(
    root: Node, files: tuple[Path, ...], backends: Callable[[], Collection[str]], to_look: bool
) -> LoadedRecipe:
    for path in SOURCES:
        root = _relative_to_cwd(root, path, _local_source)
    root = _relative_to_cwd(root, ("model", "module"), _local_module)
    recipe = validate(Recipe, root)
    written = root.get(("target",))
    assert written is not None
    try:
        target, target_file = load_target(recipe.target, written.folder)
    except SpecError as error:
        if error.where is not None:
            raise
        raise SpecError(error.message, where=written.mark, field="target", hint=error.hint) from error
    lacks = [problem(root, *one) for one in missing_for_run(recipe)]
    found = problems(recipe, target, root) + _inherited_trust(recipe, root, files) + ([] if to_look else lacks)
    extra = recipe.compile.model_extra or {}
    if extra:
        found += [_unknown_backend(root, name, backends()) for name in extra if name not in backends()]
    if found:
        raise all_of(found)
    return LoadedRecipe(recipe, target, (*files, target_file), root, tuple(lacks))


def _inherited_trust(recipe: Recipe, root: Node, files: tuple[Path, ...]) -> list[SpecError]:
    """Refuse a ``trust`` from an extended file: users have seen the recipe that they name, not its base."""
    trust = root.get(("model", "trust"))
    if not recipe.model.trust or trust is None or trust.mark.file not in {str(f) for f in files[1:]} - {str(files[0])}:
        return []
    hint = f"read {recipe.model.module}, then write `trust: true` in {files[0]}, or --set model.trust=true"
    return [problem(root, ("model", "trust"), "trust is not inherited from an extended recipe", hint)]


def _unknown_backend(root: Node, name: str, installed: Collection[str]) -> SpecError:
    names = sorted({*installed, "hb_mapper", "hb_compile"})
    hint = did_you_mean(name, names, f"backends: {', '.join(names)}")
    return problem(root, ("compile", name), f"no backend is named {name!r}", hint)


def _relative_to_cwd(root: Node, field: tuple[str, ...], localise: Callable[[str, Path], str]) -> Node:
    """Make a local path, written relative to its file's folder, relative to the working directory."""
    node, key = root.get(field), root.key_mark(field)
    if node is None or key is None or not isinstance(node.scalar, str):
        return root
    try:
        local = localise(node.scalar, node.folder)
    except ValueError:
        return root  # reported with the rest of the recipe
    return with_value(root, field, replace(node, scalar=local), key)


def _local_source(text: str, folder: Path) -> str:
    source = Source.parse(text)
    return os.path.normpath(folder / source.locator) if source.kind is SourceKind.FILE else text


def _local_module(text: str, folder: Path) -> str:
    module = ModuleRef.parse(text)
    return f"{os.path.normpath(folder / module.path)}:{module.name}"


def remote_sources(path: Path, sets: Sequence[str] = ()) -> tuple[tuple[str, Source], ...]:
    """Return section and source of each remote source, pinned or not, of every recipe in ``path``."""
    found: dict[tuple[str, Source], None] = {}
    for root in expand(compose(path, sets).root):
        validate(Recipe, root)
        for field_path in SOURCES:
            node = root.get(field_path)
            if node is not None and (source := Source.parse(str(node.scalar))).remote:
                found[".".join(field_path[:-1]), source] = None
    return tuple(found)


def built_in_targets() -> Path:
    """Return the folder of the built-in targets, in the package or in the checkout."""
    package = Path(__file__).parents[1]
    return next(p for p in (package / "targets", package.parent / "targets") if p.is_dir())


def list_targets(folder: Path) -> dict[str, Path]:
    """Return target files by name; those in ``folder``/targets take precedence over built-in ones."""
    folders = (built_in_targets(), folder / "targets")
    return {file.stem: file for each in folders for file in sorted(each.glob("*.yaml"))}


def load_target(name: str, folder: Path) -> tuple[Target, Path]:
    """Load a target by name, or by path relative to ``folder`` if ``name`` ends in .yaml.

    Raises:
        SpecError: no such target, or its file is invalid.
    """
    if is_file(name):
        path = Path(os.path.normpath(folder / name))
    else:
        known = list_targets(folder)
        if name not in known:
            hint = did_you_mean(name, list(known), f"targets: {', '.join(sorted(known))}")
            raise SpecError(f"no target is named {name!r}", hint=hint)
        path = known[name]
    root = load_yaml(path)
    target = validate(Target, root)
    if not is_file(name) and target.name != path.stem:
        raise problem(root, ("name",), f"{path.name} has the name {target.name!r}", "the name must equal the file name")
    if target.backend in CompileOptions.model_fields and not target.march.is_known:
        hint = did_you_mean(target.march, list(March), f"marches: {', '.join(March)}")
        raise problem(root, ("march",), f"backend {target.backend} has no march {target.march!r}", hint)
    if target.latency_model is not None:
        target = target.model_copy(update={"latency_model": os.path.normpath(path.parent / target.latency_model)})
    return target, path
