"""The base of every value read from YAML: frozen, strict, no unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Unknown keys and wrong types are errors; nothing is coerced ("8" is not 8, ``yes`` is not 1).

    Validators are built when first used: a recipe has a dozen sections, and only the whole is ever
    validated. The text under a field is its description in the JSON Schema (see ``spec.schema``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)
