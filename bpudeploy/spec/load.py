"""A recipe's file to what is built: composed, validated, and checked against its target."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bpudeploy.errors import SpecError
from bpudeploy.spec.checks import lacking, problems
from bpudeploy.spec.compose import compose, expand, nearest, put
from bpudeploy.spec.module import ModuleRef
from bpudeploy.spec.recipe import Recipe
from bpudeploy.spec.source import Source, SourceKind
from bpudeploy.spec.target import Target
from bpudeploy.spec.validate import all_of, problem, validate
from bpudeploy.spec.yamlmarks import Node, load_yaml

_SOURCES = (
    ("model", "source"),
    ("model", "onnx"),
    ("model", "head", "source"),
    ("dataset", "source"),
    ("calibration", "source"),
)


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe with its target. Local sources are relative to the working directory.

    ``root`` is the recipe as it was written, for errors that need a place. ``lacks`` is what a run needs and the
    recipe does not say yet (a pin, the images): empty, but where it was loaded to be looked at.
    """

    recipe: Recipe
    target: Target
    files: tuple[Path, ...]
    root: Node = field(compare=False, repr=False)
    lacks: tuple[SpecError, ...] = field(default=(), compare=False)


def is_file(name: str) -> bool:
    """Return whether a recipe or target is named by its file: what else a user may give has another ending."""
    return name.endswith((".yaml", ".yml"))


def load_recipe(
    path: Path,
    sets: Sequence[str] = (),
    backends: Callable[[], Collection[str]] = tuple,
    *,
    to_look: bool = False,
) -> tuple[LoadedRecipe, ...]:
    """Load every recipe that ``path`` stands for (several, when it has a ``matrix:``).

    Args:
        sets: ``a.b=c``, laid over the file.
        backends: names of the installed backends; asked only for a ``compile:`` section that is not ours.
        to_look: nothing will be fetched or run: what only a run needs is in ``lacks``, and no error.

    Raises:
        SpecError: the first of all errors found, with the rest in ``others``.
    """
    composed = compose(path, sets)
    return tuple(_resolve(root, composed.files, backends, to_look) for root in expand(composed.root))


def _resolve(
    root: Node, files: tuple[Path, ...], backends: Callable[[], Collection[str]], to_look: bool
) -> LoadedRecipe:
    root = _paths_from_here(root)
    recipe = validate(Recipe, root)
    written = root.get(("target",))
    assert written is not None
    try:
        target, target_file = load_target(recipe.target, written.folder)
    except SpecError as error:
        if error.where is not None:
            raise
        raise SpecError(error.message, where=written.mark, field="target", hint=error.hint) from error
    found, lacks = problems(recipe, target, root), lacking(recipe, root)
    found += _inherited_trust(recipe, root, files) + ([] if to_look else lacks)
    extra = recipe.compile.model_extra or {}
    if extra:
        found += [_unknown_backend(root, name, backends()) for name in extra if name not in backends()]
    if found:
        raise all_of(found)
    return LoadedRecipe(recipe, target, (*files, target_file), root, tuple(lacks))


def _inherited_trust(recipe: Recipe, root: Node, files: tuple[Path, ...]) -> list[SpecError]:
    """Refuse a trust that another file says: whoever names a recipe has that one before them, not what it extends."""
    said = root.get(("model", "trust"))
    if not recipe.model.trust or said is None or said.mark.file not in {str(f) for f in files[1:]} - {str(files[0])}:
        return []
    hint = f"read {recipe.model.module}, then write `trust: true` in {files[0]}, or --set model.trust=true"
    return [problem(root, ("model", "trust"), "trust is not taken over from a recipe that is extended", hint)]


def _unknown_backend(root: Node, name: str, installed: Collection[str]) -> SpecError:
    names = sorted({*installed, "hb_mapper", "hb_compile"})
    near = nearest(name, names)
    hint = f"did you mean {near}?" if near else f"backends: {', '.join(names)}"
    return problem(root, ("compile", name), f"no backend is named {name!r}", hint)


def _paths_from_here(root: Node) -> Node:
    """Turn each local source into a path from the working directory: it was written from its file's folder."""
    for path in _SOURCES:
        node, key = root.get(path), root.key_mark(path)
        if node is None or key is None or not isinstance(node.scalar, str):
            continue
        try:
            source = Source.parse(node.scalar)
        except ValueError:
            continue  # reported with the rest of the recipe
        if source.kind is SourceKind.FILE:
            local = os.path.normpath(node.folder / source.locator)
            root = put(root, path, Node(node.mark, node.folder, scalar=local), key)
    return _module_from_here(root)


def _module_from_here(root: Node) -> Node:
    """Do the same with ``model.module``."""
    path = ("model", "module")
    node, key = root.get(path), root.key_mark(path)
    if node is None or key is None or not isinstance(node.scalar, str):
        return root
    try:
        module = ModuleRef.parse(node.scalar)
    except ValueError:
        return root
    local = f"{os.path.normpath(node.folder / module.path)}:{module.name}"
    return put(root, path, Node(node.mark, node.folder, scalar=local), key)


def remote_sources(path: Path, sets: Sequence[str] = ()) -> tuple[tuple[str, Source], ...]:
    """Return the section and source of each remote source, pinned or not, of every recipe in ``path``."""
    found: dict[tuple[str, Source], None] = {}
    for root in expand(compose(path, sets).root):
        validate(Recipe, root)
        for place in _SOURCES:
            node = root.get(place)
            if node is not None and (source := Source.parse(str(node.scalar))).remote:
                found[".".join(place[:-1]), source] = None
    return tuple(found)


def built_in_targets() -> Path:
    """Return the folder of the targets that come with bpudeploy: in the package, or in the checkout."""
    package = Path(__file__).parents[1]
    return next(p for p in (package / "targets", package.parent / "targets") if p.is_dir())


def list_targets(folder: Path) -> dict[str, Path]:
    """Return target name to file: those in ``folder``/targets, then the built-in ones."""
    places = (built_in_targets(), folder / "targets")
    return {file.stem: file for place in places for file in sorted(place.glob("*.yaml"))}


def load_target(name: str, folder: Path) -> tuple[Target, Path]:
    """Load a target by name, or by path from ``folder`` when ``name`` ends in .yaml.

    Raises:
        SpecError: there is none, or its file is wrong.
    """
    if is_file(name):
        path = Path(os.path.normpath(folder / name))
    else:
        known = list_targets(folder)
        if name not in known:
            near = nearest(name, list(known))
            hint = f"did you mean {near}?" if near else f"targets: {', '.join(sorted(known))}"
            raise SpecError(f"no target is named {name!r}", hint=hint)
        path = known[name]
    root = load_yaml(path)
    target = validate(Target, root)
    if not is_file(name) and target.name != path.stem:
        raise problem(root, ("name",), f"{path.name} names itself {target.name!r}", "a target is named as its file is")
    return target, path
