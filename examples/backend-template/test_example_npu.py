"""A backend's own tests: bpudeploy's conformance check, for every choice of its options."""

from pathlib import Path

import pytest
from bpudeploy_example_npu import ExampleNpuBackend, ExampleNpuOptions, Level

from bpudeploy.backends.check import check_backend


@pytest.mark.parametrize("level", list(Level))
def test_it_conforms(tmp_path: Path, level: Level) -> None:
    check_backend(ExampleNpuBackend(), tmp_path, options=ExampleNpuOptions(level=level))
