"""One compilation of a small network with an available tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bpudeploy.backends.base import FINDINGS, SIMULATOR, Backend
from bpudeploy.backends.check import example_inputs
from bpudeploy.backends.horizon.findings import CompilerFindings, Unit
from bpudeploy.backends.registry import load_backend
from bpudeploy.events import Event, Note
from bpudeploy.spec.compile_options import VendorOptions
from bpudeploy.stage import StepContext

BACKENDS: dict[str, tuple[Backend, str]] = {
    "hb_mapper": (load_backend("hb_mapper"), "bayes-e"),
    "hb_compile": (load_backend("hb_compile"), "nash-e"),
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
        return backend.compile(StepContext(self.work, self.events.append), example_inputs(self.folder, march), chosen)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def findings(self) -> CompilerFindings:
        return CompilerFindings.model_validate_json((self.work / FINDINGS).read_bytes())

    @property
    def notes(self) -> str:
        """The text of all notes."""
        return "\n".join(event.text for event in self.events if isinstance(event, Note))


def check_reports(compiling: Compiling, binary: Path, input_type: str) -> CompilerFindings:
    """Check what every successful compilation reports, and return its findings."""
    left = {p.name for p in compiling.work.iterdir()} - {SIMULATOR}
    assert left == {binary.name, FINDINGS}, "no other file is left"
    found = compiling.findings
    assert found.told.calibration_images == 4 and found.told.unread_rows == 0
    assert any(Unit.BPU in row.on for row in found.told.nodes) and found.told.outputs[0].worst is not None
    assert f'input_type_rt: "{input_type}"' in found.config
    assert "nodes on the BPU" in compiling.notes and "compiler's estimate" in compiling.notes
    return found


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiling:
    """Return a call that compiles; kept logs stay in this test's folder."""
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    return Compiling(tmp_path)
