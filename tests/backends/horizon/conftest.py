"""One compilation of a small network, with whatever tool is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bpudeploy.backends.base import Backend
from bpudeploy.backends.check import example_inputs
from bpudeploy.backends.horizon.hb_compile import HbCompileBackend
from bpudeploy.backends.horizon.hb_mapper import HbMapperBackend
from bpudeploy.events import Event, Note
from bpudeploy.spec.compile_options import VendorOptions
from bpudeploy.stage import Work

BACKENDS: dict[str, tuple[Backend, str]] = {
    "hb_mapper": (HbMapperBackend(), "bayes-e"),
    "hb_compile": (HbCompileBackend(), "nash-e"),
}


@dataclass
class Compiling:
    """One compilation of the network of one convolution."""

    folder: Path
    events: list[Event] = field(default_factory=list)

    def __call__(self, name: str, **options: object) -> Path:
        backend, march = BACKENDS[name]
        chosen = backend.options_type.model_validate(options)
        assert isinstance(chosen, VendorOptions)
        self.work.mkdir()
        return backend.compile(Work(self.work, self.events.append), example_inputs(self.folder, march), chosen)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def notes(self) -> str:
        """Everything that was said."""
        return "\n".join(event.text for event in self.events if isinstance(event, Note))


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiling:
    """Return a call that compiles; kept logs stay in this test's folder."""
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    return Compiling(tmp_path)
