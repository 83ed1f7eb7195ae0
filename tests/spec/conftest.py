"""A working directory with weights and an image folder, and helpers to load recipes from text."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpudeploy import LoadedRecipe
from bpudeploy.errors import SpecError
from bpudeploy.spec.load import load_recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *sets: str) -> LoadedRecipe:
    Path("r.yaml").write_text(text)
    (resolved,) = load_recipe(Path("r.yaml"), sets)
    return resolved


def error(text: str, *sets: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load(text, *sets)
    return caught.value


def check_error(text: str, where: str, field: str | None, message: str, hint: str) -> None:
    found = error(text)
    assert (str(found.where), found.field) == (where, field), found.message
    assert message in found.message
    assert hint in (found.hint or ""), found.hint
