"""Options of each compile backend, under the backend's own name."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from bpudeploy.spec.frozen import Frozen


class OptimizeLevel(StrEnum):
    """How hard a vendor compiler works; which levels exist depends on the march."""

    O0 = "O0"
    O1 = "O1"
    O2 = "O2"
    O3 = "O3"


class CompileMode(StrEnum):
    """What a vendor compiler optimises for."""

    LATENCY = "latency"
    BANDWIDTH = "bandwidth"
    BALANCE = "balance"


class OrtOptions(Frozen):
    """onnxruntime on the board's CPU: it has nothing to choose."""


class HbMapperOptions(Frozen):
    """hb_mapper's compiler_parameters (X3, X5, Ultra); the target says which values its march has."""

    optimize_level: Annotated[OptimizeLevel, Field(strict=False)] | None = None
    compile_mode: Annotated[CompileMode, Field(strict=False)] | None = None
    core_num: Annotated[int, Field(ge=1, le=4)] | None = None


class HbCompileOptions(Frozen):
    """hb_compile's compiler_parameters (S100); the target says which values its march has."""

    optimize_level: Annotated[OptimizeLevel, Field(strict=False)] | None = None
    compile_mode: Annotated[CompileMode, Field(strict=False)] | None = None
    core_num: Annotated[int, Field(ge=1, le=4)] | None = None


class CompileOptions(Frozen):
    """One section a backend; only the section of the target's backend is read.

    A backend of another package may have a section under its own name: ``spec.load`` refuses names that are
    not installed, and the backend's own model validates what is in it.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    ort: OrtOptions | None = None
    hb_mapper: HbMapperOptions | None = None
    hb_compile: HbCompileOptions | None = None
