"""Programs that the vendor's own Python runs, with its packages: bpudeploy copies them, and never imports them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

PYTHON = "python3"
BUILD = "build.py"
SCORE = "score.py"
TENSORS = "tensors.py"


def copy_script(name: str, folder: Path) -> None:
    """Copy a program into the folder that the tool sees."""
    (folder / name).write_bytes(resources.files(__name__).joinpath(name).read_bytes())
