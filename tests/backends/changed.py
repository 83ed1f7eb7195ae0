"""A backend by its name, with parts of it replaced by a subclass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.registry import load_backend
from bpudeploy.stage import Fingerprint, StepContext


class ChangedBackend:
    """Does what the backend ``base`` does; a subclass replaces a part."""

    base: str

    def __init__(self) -> None:
        self.unchanged = load_backend(self.base)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unchanged, name)

    def fingerprint(self, options: Any) -> Fingerprint:
        return self.unchanged.fingerprint(options)

    def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
        return self.unchanged.compile(work, inputs, options)
