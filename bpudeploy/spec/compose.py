"""How one recipe is composed: ``extends``, ``--set`` and ``matrix``, on located values."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path

from bpudeploy.errors import Mark, SpecError
from bpudeploy.spec.yamlmarks import Key, Node, describe, load_yaml, parse_yaml

EXTENDS = "extends"
MATRIX = "matrix"
MAX_EXPANSIONS = 1000
_FIXED = (EXTENDS, MATRIX, "name")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Composed:
    """A recipe's value with everything it extends, and every file that was read for it."""

    root: Node
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Axis:
    """One key of ``matrix:``: the field, its values, and what each is called in a recipe's name."""

    path: tuple[str, ...]
    key: Key
    values: tuple[Node, ...]
    labels: tuple[str, ...]


def compose(path: Path, sets: Sequence[str] = ()) -> Composed:
    """Read ``path`` and all it extends, and lay every ``--set a.b=c`` over them.

    Maps merge; lists and scalars replace. A value's mark and folder are those of the place it was
    written; one that ``--set`` gives is relative to the folder of ``path``.

    Raises:
        SpecError: a file is missing or wrong, ``extends`` runs in a circle, a ``--set`` has no form.
    """
    composed = _extended(path, None, ())
    root = composed.root
    for text in sets:
        root = _overlay(root, _parse_set(text, path.parent))
    return Composed(root, composed.files)


def expand(root: Node) -> tuple[Node, ...]:
    """Return one recipe for each combination of ``matrix:`` (one when there is none), without that key.

    The name of each gets a suffix that tells it from the others: ``vit`` becomes ``vit-target.rdk-x5``.

    Raises:
        SpecError: an axis is empty, repeats a value, lies inside another, or cannot vary.
    """
    matrix = root.get((MATRIX,))
    plain = _without(root, MATRIX)
    if matrix is None:
        return (plain,)
    axes = _axes(matrix)
    combinations = 1
    for axis in axes:
        combinations *= len(axis.values)
    if combinations > MAX_EXPANSIONS:
        raise SpecError(
            f"the matrix makes {combinations} recipes, more than {MAX_EXPANSIONS}",
            where=matrix.mark,
            field=MATRIX,
            hint="take values away, or split the recipe",
        )
    titles = _titles(axes)
    expanded = []
    for choice in product(*(range(len(axis.values)) for axis in axes)):
        recipe = plain
        for axis, index in zip(axes, choice, strict=True):
            recipe = put(recipe, axis.path, axis.values[index], axis.key.mark)
        suffix = "".join(f"-{t}.{a.labels[i]}" for t, a, i in zip(titles, axes, choice, strict=True))
        expanded.append(_renamed(recipe, suffix))
    return tuple(expanded)


def axis_paths(root: Node) -> tuple[str, ...]:
    """Return the dotted fields that ``matrix:`` varies."""
    matrix = root.get((MATRIX,))
    return tuple(matrix.items or ()) if matrix is not None else ()


def put(node: Node, path: Sequence[str], value: Node, key_mark: Mark) -> Node:
    """Return ``node`` with ``value`` at ``path``; keys that were not there are marked ``key_mark``."""
    if not path:
        return value
    items = dict(node.items or {})
    head, rest = path[0], path[1:]
    key, child = items.get(head) or (Key(head, key_mark), Node(key_mark, value.folder, items={}))
    if not rest:
        key = Key(head, key_mark)
    elif child.items is None:
        key, child = Key(head, key_mark), Node(key_mark, value.folder, items={})
    items[head] = (key, put(child, rest, value, key_mark))
    return replace(node, items=items, elements=None, scalar=None)


def _extended(path: Path, asked: Node | None, chain: tuple[Path, ...]) -> Composed:
    if asked is not None and path.resolve() in (seen.resolve() for seen in chain):
        raise SpecError(
            f"extends runs in a circle: {' -> '.join(str(step) for step in (*chain, path))}",
            where=asked.mark,
            field=EXTENDS,
            hint="remove one of these `extends:`",
        )
    try:
        node = load_yaml(path)
    except SpecError as error:
        if error.where is not None or asked is None:
            raise
        raise SpecError(error.message, where=asked.mark, field=EXTENDS, hint=error.hint) from error
    parent = node.get((EXTENDS,))
    if parent is None:
        return Composed(node, (path,))
    if not isinstance(parent.scalar, str) or not parent.scalar:
        raise SpecError(
            f"extends: expected the path of one recipe file, found {describe(parent)}",
            where=parent.mark,
            field=EXTENDS,
            hint="extends: base.yaml",
        )
    below = _extended(Path(os.path.normpath(path.parent / parent.scalar)), parent, (*chain, path))
    return Composed(_overlay(below.root, _without(node, EXTENDS)), (path, *below.files))


def _overlay(below: Node, above: Node) -> Node:
    """Merge ``above`` over ``below``; what ``above`` fixes must not be what ``below`` varies."""
    own = axis_paths(above)
    for axis in axis_paths(below):
        fixed = above.get(axis.split("."))
        if fixed is not None and axis not in own:
            raise SpecError(
                f"{axis} has no effect here: the matrix at {below.key_mark((MATRIX, axis))} gives its values",
                where=above.key_mark(axis.split(".")) or fixed.mark,
                field=axis,
                hint=f"to fix it, give the axis one value: `matrix: {{{axis}: [{_brief(fixed)}]}}`"
                f" or --set matrix.{axis}=[{_brief(fixed)}]",
            )
    return _merge(below, above)


def _merge(below: Node, above: Node) -> Node:
    if below.items is None or above.items is None:
        return above
    merged = dict(below.items)
    for text, (key, child) in above.items.items():
        merged[text] = (key, _merge(below.items[text][1], child) if text in below.items else child)
    return Node(above.mark, above.folder, items=merged)


def _parse_set(text: str, folder: Path) -> Node:
    """Return ``a.b=c`` as the map ``{a: {b: c}}``, every mark saying ``--set a.b=c``."""
    source = f"--set {text}"
    dotted, equals, value_text = text.partition("=")
    path = dotted.strip().split(".")
    if path[0] == MATRIX and len(path) > 1:
        path = [MATRIX, ".".join(path[1:])]
    start = Mark(source, 1, 1)
    if not equals or not all(path):
        raise SpecError(
            f"{text!r} sets nothing", where=start, hint="write --set FIELD=VALUE, like --set calibration.count=32"
        )
    if path[0] == EXTENDS:
        raise SpecError(
            "extends cannot be set", where=start, field=EXTENDS, hint="write a recipe that extends the file"
        )
    value = parse_yaml(value_text, file=source, folder=folder, column=len(dotted) + 2)
    if value is None:
        value = Node(Mark(source, 1, len(dotted) + 2), folder)
    return put(Node(start, folder, items={}), path, value, start)


def _without(node: Node, name: str) -> Node:
    return replace(node, items={text: entry for text, entry in (node.items or {}).items() if text != name})


def _axes(matrix: Node) -> tuple[_Axis, ...]:
    if matrix.items is None:
        raise SpecError(
            f"matrix: expected a map, found {describe(matrix)}",
            where=matrix.mark,
            field=MATRIX,
            hint="matrix: {target: [local, rdk-x5]}",
        )
    axes = tuple(_axis(key, values) for key, values in matrix.items.values())
    for axis, other in product(axes, axes):
        if axis is not other and axis.path == other.path[: len(axis.path)]:
            raise SpecError(
                f"matrix: {other.key.text} lies inside {axis.key.text}",
                where=other.key.mark,
                field=f"{MATRIX}.{other.key.text}",
                hint="vary one of the two",
            )
    return axes


def _axis(key: Key, values: Node) -> _Axis:
    field = f"{MATRIX}.{key.text}"
    path = tuple(key.text.split("."))
    if not all(path) or path[0] in _FIXED:
        raise SpecError(
            f"matrix: {key.text!r} cannot vary",
            where=key.mark,
            field=field,
            hint="name a field, like quantize.observer",
        )
    if not values.elements:
        found = "an empty list" if values.elements == () else describe(values)
        raise SpecError(
            f"{field}: expected a list of values, found {found}",
            where=values.mark,
            field=field,
            hint=f"{key.text}: [{_brief(values) if values.scalar is not None else 'VALUE, VALUE'}]",
        )
    for index, value in enumerate(values.elements):
        if any(_same(value, earlier) for earlier in values.elements[:index]):
            raise SpecError(
                f"{field}: {_brief(value)} is there twice", where=value.mark, field=field, hint="remove one of them"
            )
    return _Axis(path, key, values.elements, _labels(values.elements))


def _same(one: Node, other: Node) -> bool:
    return repr(one.plain()) == repr(other.plain())


def _labels(values: tuple[Node, ...]) -> tuple[str, ...]:
    """Name each value: itself where that is short and tells it from the others, else its number."""
    labels = tuple(_label(value) for value in values)
    if "" in labels or max(Counter(labels).values()) > 1:
        return tuple(str(index) for index in range(1, len(values) + 1))
    return labels


def _label(value: Node) -> str:
    if value.items is not None or value.elements is not None:
        return ""
    text = str(value.scalar).lower() if value.scalar is None or isinstance(value.scalar, bool) else str(value.scalar)
    text = text.rpartition("/")[2].removesuffix(".yaml")
    return _UNFIT.sub("_", text).strip("_") if len(text) <= 32 else ""


def _titles(axes: tuple[_Axis, ...]) -> tuple[str, ...]:
    """Name each axis by its last word, or in full where two end alike."""
    leaves = Counter(axis.path[-1] for axis in axes)
    titles = (axis.path[-1] if leaves[axis.path[-1]] == 1 else axis.key.text for axis in axes)
    return tuple(_UNFIT.sub("_", title) for title in titles)


def _renamed(recipe: Node, suffix: str) -> Node:
    entry = (recipe.items or {}).get("name")
    if entry is None or not isinstance(entry[1].scalar, str) or not suffix:
        return recipe
    key, name = entry
    return put(recipe, ("name",), replace(name, scalar=f"{name.scalar}{suffix}"), key.mark)


def _brief(node: Node) -> str:
    if node.items is not None or node.elements is not None:
        return "..."
    return "null" if node.scalar is None else str(node.scalar)


def nearest(word: str, words: Iterator[str] | Sequence[str]) -> str | None:
    """Return the spelling closest to ``word``, or None when nothing is near."""
    by_fold = {candidate.lower().replace("_", "-"): candidate for candidate in words}
    close = get_close_matches(word.lower().replace("_", "-"), list(by_fold), n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None
