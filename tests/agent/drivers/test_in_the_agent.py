"""The vendor's Python runtimes in the packed agent; their output does not mix with the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.conftest import expected
from tests.agent.host import FakeBoard
from tests.fakes.board.artifact import FAMILY, MARCHES, runnable
from tests.fakes.board.fixtures import RUNTIMES, install


@pytest.mark.parametrize("name", ["x3", "s100"])
def test_the_agent_runs_a_compiled_network(
    name: str, board: FakeBoard, model: Path, samples: Path, pixels: Any
) -> None:
    has, march = install(board.folder / name, name), MARCHES[name]
    path = board.folder / f"net.{FAMILY[march]}"
    path.write_bytes(runnable(model.read_bytes(), FAMILY[march], march, "rgb-nhwc"))
    with board.ready(environment=has.env()) as agent:
        loaded, done = agent.load(path, samples, runtime=RUNTIMES[name], threads=0)
        assert done["is"] == "done" and loaded["driver"] == RUNTIMES[name] and loaded["frames_timed"]
        lines = agent.done("classify", first=0, last=5, top=3, logits=True)
        logits = [row for line in lines if line["is"] == "logits" for row in line["values"]]
        assert np.allclose(logits, expected(pixels, 0, 5), rtol=1e-4, atol=1e-2)
        layers, _ = agent.done("layers", frames=2)
        assert {"bpu", "runtime"} <= {layer["where"] for layer in layers["layers"]}
