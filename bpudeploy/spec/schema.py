"""JSON Schema for editors, made from the models: fields, types, limits and the text under each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel

from bpudeploy.spec import approximate, compile_options, fleet, recipe, suite, target
from bpudeploy.spec.fleet import Fleet, FleetBoard, Wave
from bpudeploy.spec.recipe import Recipe, RecipeFile
from bpudeploy.spec.suite import Suite
from bpudeploy.spec.target import Target


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a recipe file. A file that extends another, or has a matrix, may leave fields out."""
    schema = _described(RecipeFile)
    required = [name for name, field in Recipe.model_fields.items() if field.is_required()]
    for definition in schema["$defs"].values():
        definition.pop("required", None)
    schema["required"] = []
    schema["anyOf"] = [{"required": required}, {"required": ["extends"]}, {"required": ["matrix"]}]
    return schema


def target_schema() -> dict[str, Any]:
    """Return the schema of a target file."""
    return _described(Target)


def fleet_schema() -> dict[str, Any]:
    """Return the schema of a fleet file. A wave says in one way which boards it takes; names are words."""
    schema = _described(Fleet)
    ways = ("select", "count", "percent")
    schema["$defs"][Wave.__name__]["oneOf"] = [{"required": [way]} for way in ways]
    schema["properties"]["boards"]["additionalProperties"] = False
    schema["$defs"][FleetBoard.__name__]["properties"]["labels"]["additionalProperties"] = False
    return schema


def suite_schema() -> dict[str, Any]:
    """Return the schema of a suite file."""
    return _described(Suite)


def _described(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    classes = {
        name: value
        for module in (recipe, target, fleet, suite, approximate, compile_options)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseModel)
    }
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        texts = _field_texts(classes[name]) if name in classes else {}
        for field, text in texts.items():
            if field in part.get("properties", {}):
                part["properties"][field]["description"] = text
    return schema


def _field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return field to the string literal below it, of the class and those it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed([c for c in model.__mro__ if c.__module__.startswith("bpudeploy.spec")]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[line.target.id] = inspect.cleandoc(str(below.value.value))
    return texts
