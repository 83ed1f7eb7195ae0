"""JSON Schema for editors: fields, types, limits and descriptions of the spec models."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from bpudeploy.spec.fleet import Fleet, FleetBoard, Wave
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.recipe import Recipe, RecipeFile
from bpudeploy.spec.suite import Suite
from bpudeploy.spec.target import Target


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a recipe file. A file that extends another, or has a matrix, may omit required fields."""
    schema = _schema(RecipeFile)
    required = [name for name, field in Recipe.model_fields.items() if field.is_required()]
    for definition in schema["$defs"].values():
        definition.pop("required", None)
    schema["required"] = []
    schema["anyOf"] = [{"required": required}, {"required": ["extends"]}, {"required": ["matrix"]}]
    return schema


def target_schema() -> dict[str, Any]:
    """Return the schema of a target file."""
    return _schema(Target)


def fleet_schema() -> dict[str, Any]:
    """Return the schema of a fleet file: a wave has exactly one of select, count and percent; names are identifiers."""
    schema = _schema(Fleet)
    schema["$defs"][Wave.__name__]["oneOf"] = [{"required": [way]} for way in ("select", "count", "percent")]
    schema["properties"]["boards"]["additionalProperties"] = False
    schema["$defs"][FleetBoard.__name__]["properties"]["labels"]["additionalProperties"] = False
    return schema


def suite_schema() -> dict[str, Any]:
    """Return the schema of a suite file."""
    return _schema(Suite)


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema, the docstring of each field as its description."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    if "March" in schema["$defs"]:
        schema["$defs"]["March"] = {"type": "string", "examples": schema["$defs"]["March"]["enum"], "title": "March"}
    models = {cls.__name__: cls for cls in _spec_models(Frozen)}
    for name, part in {model.__name__: schema, **schema["$defs"]}.items():
        for field, text in _field_docstrings(models[name]).items() if name in models else ():
            part["properties"][field]["description"] = text
    return schema


def _spec_models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for cls in base.__subclasses__():
        yield from _spec_models(cls)
        if cls.__module__.startswith("bpudeploy.spec."):
            yield cls


def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model, inherited fields included.

    Pydantic's ``use_attribute_docstrings`` gives the same, but reads the source at import: 70 ms for each command.
    """
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__[: model.__mro__.index(Frozen)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for pair in pairwise(tree.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[field] = inspect.cleandoc(text)
    return texts
