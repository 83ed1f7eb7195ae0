"""The simulator: a backend with predicted latency and simulated accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from bpudeploy import Summary
from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.registry import load_backend
from bpudeploy.cli.main import main
from bpudeploy.errors import StageError
from bpudeploy.predict.simulated import KEY, SimulationReport
from bpudeploy.provenance import Provenance
from bpudeploy.spec.compile_options import BpuSimOptions
from bpudeploy.spec.load import load_target
from bpudeploy.stage import StepContext
from bpudeploy.testing import check_backend
from tests.backends.changed import ChangedBackend

PAIRS = (("sim-x3", "rdk-x3"), ("sim-x5", "rdk-x5"), ("sim-s100", "rdk-s100"))


@pytest.mark.parametrize("march", ["bayes-e", "nash-e", "bernoulli2", "bayes"])
def test_it_conforms_on_every_march_that_has_a_latency_model(march: str, tmp_path: Path) -> None:
    check_backend(load_backend("bpu_sim"), tmp_path, march)


def test_a_march_without_a_latency_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="bpu_sim has no latency model of cpu"):
        check_backend(load_backend("bpu_sim"), tmp_path, "cpu")


def test_the_binary_says_its_parts_and_its_predicted_latency(tmp_path: Path) -> None:
    found: list[SimulationReport] = []

    class Kept(ChangedBackend):
        base = "bpu_sim"

        def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
            made = super().compile(work, inputs, options)
            (said,) = [e.value for e in onnx.load(made).metadata_props if e.key == KEY]
            found.append(SimulationReport.model_validate_json(said))
            assert found[-1] == SimulationReport.read(work.dir / "findings.json")
            return made

    check_backend(Kept(), tmp_path, "bayes-e")
    one = found[0]
    assert one.provenance == "simulated" and one.estimate.provenance == "predicted"
    assert [part.segment for part in one.parts] == [0] and one.estimate.predicted_ms > 0


@pytest.mark.parametrize(("simulated", "real"), PAIRS)
def test_a_simulated_target_keeps_the_rules_of_its_board(simulated: str, real: str) -> None:
    sim, board = (load_target(name, Path())[0] for name in (simulated, real))
    assert (sim.march, sim.precision, sim.backend) == (board.march, board.precision, "bpu_sim")
    costs = {board.precision.int16_cost, BpuSimOptions().int16_cost}
    assert len(costs) == 1 or len(board.precision.conv) == 1, "bernoulli2 has no int16: its cost is never read"


def test_a_run_on_it_is_simulated_and_predicted_and_never_looks_measured(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", str(tiny), "--set", "target=sim-x5", "--set", "check.max_p50_ms=1000", "--json"]
    assert main(argv) == 0
    text = capsys.readouterr().out.strip().splitlines()[-1]
    summary = Summary.model_validate_json(text)
    board, predicted = summary.accuracy[-1], summary.predicted
    assert predicted is not None and predicted.board == "RDK X5"
    assert board.form == "bayes-e, simulated" and board.provenance is Provenance.SIMULATED
    (gate,) = [g for g in summary.gates if g.name == "max_p50_ms"]
    assert gate.value == predicted.predicted_ms and gate.unit == "ms, predicted"
    assert json.loads(text)["predicted"]["provenance"] == "predicted"
    page = (tmp_path / summary.run_directory / "report.html").read_text()
    assert "Latency on the board" not in page and "top-1 on the board" not in page
    assert "latency on RDK X5, predicted" in page and "top-1, simulated" in page
    assert "The simulator's own time, on this machine" in page and "It says nothing about a board" in page
    assert "was measured: accuracy and latency of the board" not in page

    assert main(["report", str(tmp_path / summary.run_directory)]) == 0
    said = capsys.readouterr().out
    assert "simulating RDK X5" in said and "latency on RDK X5: PREDICTED" in said
    assert "latency of the simulator on this machine, not of a board, measured" in said
    assert "latency on the board" not in said
