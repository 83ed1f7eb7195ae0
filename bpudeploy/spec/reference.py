"""The reference page of a file format: the fields of each section, written from its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
_NAMES = {"string": "text", "boolean": "true or false"}


def reference_page(schema: Json, title: str, command: str) -> str:
    """Return a Markdown page with every field: path, type with limits, default, description.

    Args:
        command: the command that writes the page; the page names it.
    """
    lines = [f"# {title}", "", f"Every field. Written by `{command}`; do not edit.", ""]
    for path, section in _sections(schema, schema, ""):
        lines += [f"## `{path}:`" if path else "## Top level", ""]
        if path and section.get("description"):
            lines += [_line(section["description"]), ""]
        for name, field in section["properties"].items():
            lines.append(f"- `{name}` ({_type(field, schema)}{_default(field)}): {_line(field.get('description', ''))}")
        lines.append("")
    return "\n".join(lines)


def _sections(section: Json, schema: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Yield a section with its path, then those below it, depth first."""
    yield path, section
    for name, field in section["properties"].items():
        for below, suffix in _objects(field, schema):
            yield from _sections(below, schema, ".".join(filter(None, (path, name + suffix))))


def _objects(field: Json, schema: Json) -> Iterator[tuple[Json, str]]:
    """Yield the sections that a field holds, with what stands behind its name: a list is ``[]``, a mapping ``.*``."""
    if "$ref" in field:
        target = schema["$defs"][field["$ref"].rpartition("/")[2]]
        if "properties" in target:
            yield target, ""
    for one in field.get("anyOf", ()):
        yield from _objects(one, schema)
    inside = [(field.get("items"), "[]"), (field.get("additionalProperties"), ".*")]
    inside += [(one, ".*") for one in field.get("patternProperties", {}).values()]
    for part, suffix in inside:
        if isinstance(part, Mapping):
            for below, more in _objects(part, schema):
                yield below, suffix + more


def _type(field: Json, schema: Json) -> str:
    if "$ref" in field:
        return _type(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one, schema) for one in field["anyOf"] if one.get("type") != "null"))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field['items'], schema)}" if "items" in field else "list"
    if kind == "object":
        return "section" if "properties" in field else "mapping"
    return _NAMES.get(kind, str(kind)) + _limits(field)


def _limits(field: Json) -> str:
    words = {"minimum": "from", "maximum": "to", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    found = [f"{word} {field[key]:g}" for key, word in words.items() if key in field]
    return f" {', '.join(found)}".replace(", to", " to") if found else ""


def _default(field: Json) -> str:
    if not field.get("default") or isinstance(field["default"], dict):
        return ""
    return f", default `{json.dumps(field['default'])}`"


def _line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")
