"""Composition of a recipe from ``extends``, ``--set`` and ``matrix``, on values with source positions."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from math import prod
from pathlib import Path

from bpudeploy.errors import Mark, SpecError
from bpudeploy.spec.yamlmarks import Node, describe, load_yaml, parse_yaml

EXTENDS = "extends"
MATRIX = "matrix"
MAX_EXPANSIONS = 1000
_FIXED = (EXTENDS, MATRIX, "name")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Composed:
    """A recipe merged with everything that it extends, and the files that were read."""

    root: Node
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Axis:
    """One key of ``matrix:``: the field, its position, its values, and their labels in recipe names."""

    field: str
    mark: Mark
    values: tuple[Node, ...]
    labels: tuple[str, ...]

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.field.split("."))


def compose(path: Path, sets: Sequence[str] = ()) -> Composed:
    """Read ``path`` and all files that it extends, and apply each ``--set a.b=c``.

    Maps are merged; lists and scalars replaced. A value keeps the mark and folder of the file that contains it; a value
    from ``--set`` is relative to the folder of ``path``.

    Raises:
        SpecError: a file is missing or invalid, ``extends`` is circular, or a ``--set`` is malformed.
    """
    composed = _extended(path, None, ())
    root = composed.root
    for text in sets:
        root = _overlay(root, _parse_set(text, path.parent))
    return Composed(root, composed.files)


def expand(root: Node) -> tuple[Node, ...]:
    """Return one recipe per combination of ``matrix:`` (a single one without it), without that key.

    The name of each gets a suffix: ``vit`` becomes ``vit-target.rdk-x5``.

    Raises:
        SpecError: an axis is empty, repeats a value, is nested in another, or cannot vary.
    """
    matrix = root.get((MATRIX,))
    plain = _without(root, MATRIX)
    if matrix is None:
        return (plain,)
    axes = _axes(matrix)
    combinations = prod(len(axis.values) for axis in axes)
    if combinations > MAX_EXPANSIONS:
        message = f"the matrix makes {combinations} recipes, more than {MAX_EXPANSIONS}"
        raise SpecError(message, where=matrix.mark, field=MATRIX, hint="remove values, or split the recipe")
    titles = _titles(axes)
    expanded = []
    for choice in product(*(zip(axis.values, axis.labels, strict=True) for axis in axes)):
        recipe, suffix = plain, ""
        for axis, title, (value, label) in zip(axes, titles, choice, strict=True):
            recipe = with_value(recipe, axis.path, value, axis.mark)
            suffix += f"-{title}.{label}"
        expanded.append(_renamed(recipe, suffix))
    return tuple(expanded)


def axis_paths(root: Node) -> tuple[str, ...]:
    """Return the dotted fields that ``matrix:`` varies."""
    matrix = root.get((MATRIX,))
    return tuple(matrix.items or ()) if matrix is not None else ()


def with_value(node: Node, path: Sequence[str], value: Node, key_mark: Mark) -> Node:
    """Return a copy of ``node`` with ``value`` at ``path``; new keys get the mark ``key_mark``."""
    if not path:
        return value
    items = dict(node.items or {})
    head, rest = path[0], path[1:]
    mark, child = items.get(head) or (key_mark, Node(key_mark, value.folder, items={}))
    if not rest:
        mark = key_mark
    elif child.items is None:
        mark, child = key_mark, Node(key_mark, value.folder, items={})
    items[head] = (mark, with_value(child, rest, value, key_mark))
    return replace(node, items=items, elements=None, scalar=None)


def _extended(path: Path, reference: Node | None, chain: tuple[Path, ...]) -> Composed:
    """Load ``path`` merged over what it extends; ``reference`` is the ``extends:`` value that names it."""
    if reference is not None and path.resolve() in (visited.resolve() for visited in chain):
        message = f"extends is circular: {' -> '.join(str(step) for step in (*chain, path))}"
        raise SpecError(message, where=reference.mark, field=EXTENDS, hint="remove one of these `extends:`")
    try:
        node = load_yaml(path)
    except SpecError as error:
        if error.where is not None or reference is None:
            raise
        raise SpecError(error.message, where=reference.mark, field=EXTENDS, hint=error.hint) from error
    parent = node.get((EXTENDS,))
    if parent is None:
        return Composed(node, (path,))
    if not isinstance(parent.scalar, str) or not parent.scalar:
        message = f"extends: expected the path of one recipe file, found {describe(parent)}"
        raise SpecError(message, where=parent.mark, field=EXTENDS, hint="extends: base.yaml")
    base = _extended(Path(os.path.normpath(path.parent / parent.scalar)), parent, (*chain, path))
    return Composed(_overlay(base.root, _without(node, EXTENDS)), (path, *base.files))


def _overlay(base: Node, override: Node) -> Node:
    """Merge ``override`` over ``base``; it must not set a field that the matrix of ``base`` varies."""
    own = axis_paths(override)
    for axis in axis_paths(base):
        value = override.get(axis.split("."))
        if value is not None and axis not in own:
            raise SpecError(
                f"{axis} has no effect here: the matrix at {base.key_mark((MATRIX, axis))} sets its values",
                where=override.key_mark(axis.split(".")) or value.mark,
                field=axis,
                hint=f"to fix it, give the axis one value: `matrix: {{{axis}: [{_brief(value)}]}}`"
                f" or --set matrix.{axis}=[{_brief(value)}]",
            )
    return _merge(base, override)


def _merge(base: Node, override: Node) -> Node:
    if base.items is None or override.items is None:
        return override
    merged = dict(base.items)
    for text, (mark, child) in override.items.items():
        merged[text] = (mark, _merge(base.items[text][1], child) if text in base.items else child)
    return Node(override.mark, override.folder, items=merged)


def _parse_set(text: str, folder: Path) -> Node:
    """Return ``a.b=c`` as the map ``{a: {b: c}}``; each mark has ``--set a.b=c`` as its file."""
    source = f"--set {text}"
    dotted, equals, value_text = text.partition("=")
    path = dotted.strip().split(".")
    if path[0] == MATRIX and len(path) > 1:
        path = [MATRIX, ".".join(path[1:])]
    start = Mark(source, 1, 1)
    if not equals or not all(path):
        hint = "write --set FIELD=VALUE, like --set calibration.count=32"
        raise SpecError(f"{text!r} sets nothing", where=start, hint=hint)
    if path[0] == EXTENDS:
        hint = "write a recipe that extends the file"
        raise SpecError("extends cannot be set", where=start, field=EXTENDS, hint=hint)
    value = parse_yaml(value_text, file=source, folder=folder, column=len(dotted) + 2)
    if value is None:
        value = Node(Mark(source, 1, len(dotted) + 2), folder)
    return with_value(Node(start, folder, items={}), path, value, start)


def _without(node: Node, name: str) -> Node:
    return replace(node, items={text: entry for text, entry in (node.items or {}).items() if text != name})


def _axes(matrix: Node) -> tuple[_Axis, ...]:
    if matrix.items is None:
        hint = "matrix: {target: [local, rdk-x5]}"
        raise SpecError(f"matrix: expected a map, found {describe(matrix)}", where=matrix.mark, field=MATRIX, hint=hint)
    axes = tuple(_axis(field, mark, values) for field, (mark, values) in matrix.items.items())
    for axis, other in product(axes, axes):
        if axis is not other and axis.path == other.path[: len(axis.path)]:
            message = f"matrix: {other.field} is part of {axis.field}"
            raise SpecError(message, where=other.mark, field=f"{MATRIX}.{other.field}", hint="vary one of the two")
    return axes


def _axis(name: str, mark: Mark, values: Node) -> _Axis:
    field = f"{MATRIX}.{name}"
    path = name.split(".")
    if not all(path) or path[0] in _FIXED:
        hint = "name a field, like quantize.observer"
        raise SpecError(f"matrix: {name!r} cannot vary", where=mark, field=field, hint=hint)
    if not values.elements:
        found = "an empty list" if values.elements == () else describe(values)
        hint = f"{name}: [{_brief(values) if values.scalar is not None else 'VALUE, VALUE'}]"
        raise SpecError(f"{field}: expected a list of values, found {found}", where=values.mark, field=field, hint=hint)
    for index, value in enumerate(values.elements):
        if repr(value.plain()) in (repr(earlier.plain()) for earlier in values.elements[:index]):
            text = f"{field}: {_brief(value)} is listed twice"
            raise SpecError(text, where=value.mark, field=field, hint="remove one of them")
    return _Axis(name, mark, values.elements, _labels(values.elements))


def _labels(values: tuple[Node, ...]) -> tuple[str, ...]:
    """Return the label of each value: the value itself if all are short and distinct, otherwise its number."""
    labels = tuple(_label(value) for value in values)
    if "" in labels or max(Counter(labels).values()) > 1:
        return tuple(str(index) for index in range(1, len(values) + 1))
    return labels


def _label(value: Node) -> str:
    if value.items is not None or value.elements is not None:
        return ""
    text = str(value.scalar).lower() if value.scalar is None or isinstance(value.scalar, bool) else str(value.scalar)
    text = text.rpartition("/")[2].removesuffix(".yaml")
    return _NOT_IN_A_NAME.sub("_", text).strip("_") if len(text) <= 32 else ""


def _titles(axes: tuple[_Axis, ...]) -> tuple[str, ...]:
    """Return the title of each axis: its last word, or the full path if another axis ends in the same word."""
    leaves = Counter(axis.path[-1] for axis in axes)
    titles = (axis.path[-1] if leaves[axis.path[-1]] == 1 else axis.field for axis in axes)
    return tuple(_NOT_IN_A_NAME.sub("_", title) for title in titles)


def _renamed(recipe: Node, suffix: str) -> Node:
    entry = (recipe.items or {}).get("name")
    if entry is None or not isinstance(entry[1].scalar, str) or not suffix:
        return recipe
    mark, name = entry
    return with_value(recipe, ("name",), replace(name, scalar=f"{name.scalar}{suffix}"), mark)


def _brief(node: Node) -> str:
    if node.items is not None or node.elements is not None:
        return "..."
    return "null" if node.scalar is None else str(node.scalar)


def did_you_mean(word: str, words: Sequence[str], otherwise: str) -> str:
    """Return a hint with the closest spelling of ``word`` among ``words``, or ``otherwise`` if nothing is close."""
    near = nearest(word, words)
    return f"did you mean {near}?" if near else otherwise


def nearest(word: str, words: Iterator[str] | Sequence[str]) -> str | None:
    """Return the closest spelling of ``word`` among ``words``, or None."""
    by_fold = {candidate.lower().replace("_", "-"): candidate for candidate in words}
    close = get_close_matches(word.lower().replace("_", "-"), list(by_fold), n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None
