"""A YAML schema whose complaints read as those of Python's ``schema`` package, which the tools use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.say import Refused

Config = dict[str, dict[str, Any]]
PARSE_FAILED = "yaml file parse failed. Please double check your input"


@dataclass(frozen=True)
class Field:
    """One key: the types that it takes, and whether it has to be there."""

    types: tuple[type, ...] = (str,)
    required: bool = False


TEXT = Field()
NEEDED = Field(required=True)
FLAG = Field((bool,))
NUMBER = Field((int,))
FRACTION = Field((float, int))
NUMBERS = Field((str, float, int))
"""One number, or several in a string."""

Schema = Mapping[str, Mapping[str, Field]]


def read_yaml(path: Path) -> Any:
    """Load the file as the tools do, with safe_load."""
    if not path.is_file():
        raise Refused(f"The {path} does not exist.")
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise Refused(str(problem), PARSE_FAILED) from problem


def check(loaded: Any, schema: Schema, required: Iterable[str]) -> Config:
    """Return the groups, or refuse the first thing that the schema does not have."""
    if not isinstance(loaded, dict):
        raise Refused(f"{loaded!r} should be instance of 'dict'", PARSE_FAILED)
    for group, fields in loaded.items():
        if group in schema:
            problem = _group(fields, schema[group])
            if problem:
                raise Refused(f"Key '{group}' error:\n{problem}", PARSE_FAILED)
    problem = _wrong_or_missing(loaded, set(schema), required)
    if problem:
        raise Refused(problem, PARSE_FAILED)
    return {group: dict(fields) for group, fields in loaded.items()}


def _group(fields: Any, known: Mapping[str, Field]) -> str | None:
    if not isinstance(fields, dict):
        return f"{fields!r} should be instance of 'dict'"
    for key, value in fields.items():
        if key in known and not _fits(value, known[key].types):
            names = [t.__name__ for t in known[key].types]
            wanted = f"'{names[0]}'" if len(names) == 1 else " or ".join(f"'{n}'" for n in names)
            return f"Key '{key}' error:\n{value!r} should be instance of {wanted}"
    return _wrong_or_missing(fields, set(known), [k for k, f in known.items() if f.required])


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _wrong_or_missing(given: Mapping[Any, Any], known: set[str], required: Iterable[str]) -> str | None:
    missing = [k for k in required if k not in given]
    if missing:
        return f"Missing key{'s' if len(missing) > 1 else ''}: {', '.join(map(repr, missing))}"
    wrong = [k for k in given if k not in known]
    if wrong:
        return f"Wrong key{'s' if len(wrong) > 1 else ''} {', '.join(map(repr, wrong))} in {dict(given)!r}"
    return None


def names(text: Any) -> list[str]:
    """Split at ``;``: the tools' list of names. A last ``;`` adds nothing."""
    return [part.strip() for part in str(text or "").split(";") if part.strip()]


def per_input(text: Any, count: int, name: str) -> list[str]:
    """Split at ``;``, one value for each input."""
    found = names(text)
    if len(found) != count:
        raise Refused(f"Wrong {name} num received. Num of {name} given: {len(found)} is not equal to input num {count}")
    return found


def floats(text: Any, name: str, *, commas: bool) -> list[float]:
    """Read numbers that are joined with spaces, or with commas where the family takes them."""
    words = str(text).replace(",", " ") if commas else str(text)
    try:
        found = [float(w) for w in words.split()]
    except ValueError as problem:
        raise _format(text, name) from problem
    if not found:
        raise _format(text, name)
    return found


def _format(text: Any, name: str) -> Refused:
    return Refused(f"Wrong format of {name} {text} specified, please refer to user manual")


def one_of(value: Any, allowed: Iterable[Any], name: str) -> None:
    """Refuse a value that is not in the list, in the tools' words."""
    listed = list(allowed)
    if value not in listed:
        raise Refused(f"The specified {name} '{value}' is invalid, it can only be specified as values in {listed}")


def shape_of(text: str) -> list[int]:
    """Read ``1x3x224x224``."""
    try:
        found = [int(part) for part in text.split("x")]
    except ValueError as problem:
        raise Refused(f"Wrong format of input_shape {text} specified, please refer to user manual") from problem
    if any(n < 1 for n in found):
        raise Refused(f"Wrong format of input_shape {text} specified, please refer to user manual")
    return found
