"""Backend `bpu_sim`: a march without its board. Its numbers are simulated on a CPU, its latency is predicted."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.base import FINDINGS, CompileInputs
from bpudeploy.backends.ort import with_pixels
from bpudeploy.backends.samples import Normalisation
from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.provenance import Provenance
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.compile_options import BpuSimOptions
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.target import March
from bpudeploy.stage import Fingerprint, StepContext

if TYPE_CHECKING:
    import onnx

    from bpudeploy.predict.simulated import SimulationReport


class BpuSimBackend:
    """Writes the QDQ graph with pixel input, as `ort` does; its metadata has the march's parts and latency.

    onnxruntime runs it. The step quantize/integers reports the difference from a BPU's integers per tap.
    """

    name = "bpu_sim"
    version = 1
    runtime = "onnxruntime"
    driver = None
    provenance = Provenance.SIMULATED
    deterministic = True
    findings = True
    options_type = BpuSimOptions

    def device(self, march: str) -> str:
        return "CPU (onnxruntime)"

    def fingerprint(self, options: BpuSimOptions) -> Fingerprint:
        """Return the version of onnx, and a digest of the marches' rates."""
        from bpudeploy.predict.march import digest_of_models

        return {"onnx": version("onnx"), "latency model": digest_of_models()}

    def compile(self, work: StepContext, inputs: CompileInputs, options: BpuSimOptions) -> Path:
        """Write the binary, and its metadata as findings.

        Raises:
            StageError: the march has no latency model.
        """
        import onnx

        model = onnx.load(inputs.quantized.path)
        found = _simulated(onnx.load(inputs.graph.path), QuantizeRecord.read(model), March(inputs.march), options)
        bound = with_pixels(model, Normalisation.read(inputs.preprocess.path))
        found.write(bound)
        out = work.dir / "model.onnx"
        onnx.save(bound, out)
        (work.dir / FINDINGS).write_text(found.model_dump_json())
        work.emit(Note("compile", _describe(found)))
        return out


def _simulated(
    graph: onnx.ModelProto, record: QuantizeRecord, march: March, options: BpuSimOptions
) -> SimulationReport:
    from bpudeploy.predict.estimate import estimate_latency
    from bpudeploy.predict.march import march_model, modelled_marches
    from bpudeploy.predict.simulated import SimulationReport
    from bpudeploy.predict.workload import count_workload

    if march not in modelled_marches():
        raise StageError(
            f"bpu_sim has no latency model of {march}",
            hint=f"name a target of {', '.join(modelled_marches())}, such as sim-x5",
        )
    model = march_model(march)
    workload = count_workload(graph, march, model.array)
    wide = [tap for tap in record.taps.values() if tap.precision is Precision.INT16]
    rules = PrecisionRules(
        elsewhere=Precision.INT16 if any(not tap.products for tap in wide) else Precision.INT8,
        int16_cost=options.int16_cost,
    )
    promoted = {product for tap in wide for product in tap.products}
    return SimulationReport.of(workload, estimate_latency(workload, model, rules, promoted=promoted))


def _describe(found: SimulationReport) -> str:
    e = found.estimate
    cut = f"{e.segments} BPU segments, {e.cpu_nodes} nodes on the CPU"
    return f"simulates {e.march}: {cut}; predicted {e.predicted_ms:.3g} ms, {e.bound}-bound, nothing measured"
