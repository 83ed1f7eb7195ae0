"""`hb_mapper checker`: where the tool puts the nodes of a network, without calibration images, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bpudeploy.backends.horizon.findings import PlacementRow, Unit
from bpudeploy.backends.horizon.hb_mapper import tool_session
from bpudeploy.backends.horizon.network import MODEL
from bpudeploy.backends.horizon.quant_info import is_part_of, quantized_names, with_full_name
from bpudeploy.conformance.placement import CheckerPlacement
from bpudeploy.events import Event
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import onnx

MARCHES = frozenset({March.BERNOULLI2, March.BAYES, March.BAYES_E})


def check(
    model: onnx.ModelProto, march: March, options: HbMapperOptions, emit: Callable[[Event], None]
) -> CheckerPlacement:
    """Return where `hb_mapper checker` puts the nodes of ``model`` (opset 10 or 11), for a march of ``MARCHES``.

    Raises:
        ToolMissing: the tool is not on this machine.
        StageError: it refuses the model; the message has its reason.
    """
    with tool_session(model, options, emit) as session:
        arguments = ("checker", "--model-type", "onnx", "--march", march.value, "--model", MODEL)
        report = session.call(*arguments, log="hb_mapper_checker.log")
        names = quantized_names(session.folder / ".hb_check" / "quant_info.json")
    rows = [with_full_name(row, names) for row in report.nodes]
    on_cpu = frozenset(node.name for node in model.graph.node if unit_of(node.name, rows) is Unit.CPU)
    return CheckerPlacement(f"hb_mapper {report.versions.get('hb_mapper', '?')} checker", on_cpu)


def unit_of(name: str, rows: Iterable[PlacementRow]) -> Unit | None:
    """Return CPU if the tool's table has the node there, whole or in part, else BPU; None if it has no row."""
    found = [row.on for row in rows if is_part_of(row.name, name)]
    if not found:
        return None
    return Unit.CPU if any(Unit.CPU in on for on in found) else Unit.BPU
