"""Base class of all values read from YAML: frozen, strict, no unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Unknown keys and wrong types are errors; nothing is coerced ("8" is not 8, ``yes`` is not 1).

    Validators are built on first use: of a recipe's dozen sections, only the whole is ever validated. The docstring
    below a field is its description in the JSON Schema (``spec.schema``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)
