"""Validation of values with source positions: each error has its location, field and hint."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import astuple
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bpudeploy.errors import Mark, SpecError
from bpudeploy.spec.compose import did_you_mean
from bpudeploy.spec.yamlmarks import Node, describe

M = TypeVar("M", bound=BaseModel)
FieldPath = tuple[str | int, ...]

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "list_type": "a list",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}


def validate(model: type[M], node: Node, at: FieldPath = ()) -> M:
    """Return ``node`` as ``model``; ``at`` is its path in the file, for the field paths of errors.

    Raises:
        SpecError: the first error, with the rest in ``others``.
    """
    try:
        return model.model_validate(node.plain())
    except ValidationError as error:
        raise all_of([_located(model, node, detail, at) for detail in error.errors()]) from error


def all_of(errors: Sequence[SpecError]) -> SpecError:
    """Return one error with all of ``errors`` (at least one), in the order of their positions."""
    first, *others = sorted(errors, key=lambda e: astuple(e.where) if e.where else ("", 0, 0))
    return SpecError(first.message, where=first.where, field=first.field, hint=first.hint, others=tuple(others))


def problem(root: Node, path: FieldPath, message: str, hint: str, at: FieldPath = ()) -> SpecError:
    """Return an error at ``path``, or at its closest parent in the file."""
    return SpecError(message, where=_mark(root, path), field=dotted((*at, *path)), hint=hint)


def dotted(path: FieldPath) -> str:
    """Return ``a.b[0]`` for ("a", "b", 0)."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _mark(root: Node, path: FieldPath) -> Mark:
    for end in range(len(path), 0, -1):
        node = root.get(path[:end])
        if node is not None:
            return node.mark
    return root.mark


def _located(model: type[BaseModel], root: Node, detail: ErrorDetails, at: FieldPath) -> SpecError:
    path = _path_in_file(root, tuple(detail["loc"]))
    kind, context = detail["type"], detail.get("ctx", {})
    name = dotted((*at, *path))
    node = root.get(path)
    found = describe(node) if node is not None else "nothing"
    if kind == "extra_forbidden":
        fields = _fields(model, path[:-1])
        hint = did_you_mean(str(path[-1]), fields, f"keys here: {', '.join(fields)}")
        return SpecError(f"unknown key {path[-1]!r}", where=root.key_mark(path), field=name, hint=hint)
    if kind == "missing":
        hint = "the list is too short" if isinstance(path[-1], int) else f"add `{path[-1]}:`"
        return problem(root, path, f"{name} is missing", hint, at)
    if kind in ("enum", "literal_error"):
        words = str(context.get("expected", ""))
        options = [w.strip(" '") for w in words.replace(" or ", ", ").split(",")]
        hint = did_you_mean(str(node.scalar), options, words) if node is not None else words
        return problem(root, path, f"{name}: expected {words}, found {found}", hint, at)
    if kind == "value_error":
        return problem(root, path, f"{name}: {context['error']}, found {found}", "correct the value", at)
    if kind in _EXPECTED:
        wanted = _EXPECTED[kind]
        hint = "remove the quotes" if _quoted_number(node, kind) else f"write {wanted}"
        return problem(root, path, f"{name}: expected {wanted}, found {found}", hint, at)
    text = detail["msg"].replace("Input should", "should").replace("String should", "should")
    return problem(root, path, f"{name}: {text[:1].lower()}{text[1:]}, found {found}", "correct the value", at)


def _quoted_number(node: Node | None, kind: str) -> bool:
    if node is None or not isinstance(node.scalar, str) or kind not in ("int_type", "float_type"):
        return False
    return node.scalar.replace(".", "", 1).lstrip("+-").isdigit()


def _path_in_file(root: Node, loc: FieldPath) -> FieldPath:
    """Drop the parts of pydantic's location that are types of a union, not keys."""
    path: list[str | int] = []
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        if root.get((*path, part)) is not None or (last and root.get(path) is not None and not _scalar(root.get(path))):
            path.append(part)
    return tuple(path)


def _scalar(node: Node | None) -> bool:
    return node is not None and node.items is None and node.elements is None


def _fields(model: type[BaseModel], path: FieldPath) -> list[str]:
    """Return the keys of the model at ``path``."""
    current: type[BaseModel] = model
    for part in path:
        inner = _model_in(current.model_fields[str(part)].annotation) if part in current.model_fields else None
        if inner is None:
            return []
        current = inner
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((m for m in map(_model_in, get_args(annotation)) if m), None)
    return None
